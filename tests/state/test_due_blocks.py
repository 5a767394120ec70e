"""What is due is found through its block, whatever becomes of blocks meanwhile."""

from __future__ import annotations

import json
from random import Random
from uuid import UUID

import pytest
from histories import START
from model import Event, Forget, Request, Status
from support.core import SECRET, Core, merged

from alarmdigest._ext.alarmbook import AlarmBook

HOUR_NS = 3600 * 10**9


class Kept:
    """A book, and what is due by a plain count: alarms that are active and not told yet."""

    def __init__(self) -> None:
        self.core = Core(retention_ns=HOUR_NS)
        self.book = self.core.books[0]
        self.due: dict[str, set[str]] = {}
        self.time = 0

    def event(self, user: str, alarm: str, status: Status) -> None:
        self.time += 1
        self.core.route_message(Event(user, alarm, status, self.time), START + self.time)
        due = self.due.setdefault(user, set())
        due.discard(alarm) if status is Status.CLEARED else due.add(alarm)

    def forget(self, user: str) -> None:
        self.time += 1
        self.core.route_message(Forget(user), START + self.time)
        self.due.pop(user, None)

    def merge(self) -> None:
        assert merged(self.book, self.core.router.take(0)) == []

    def asked(self, user: str) -> None:
        """The digest of a user is what is due."""
        self.merge()
        self.time += 1
        self.core.route_message(Request(user), START + self.time)
        bodies = merged(self.book, self.core.router.take(0))
        found = {one["AlarmID"] for body in bodies for one in json.loads(body)["ActiveAlarms"]}
        assert found == self.due.pop(user, set())

    def sweep(self, later_ns: int) -> None:
        self.merge()
        for _ in range(200):
            self.book.sweep(START + later_ns, self.book.steps_around)

    def reload(self) -> None:
        self.merge()
        self.book.mark_all_changed()
        rows = b""
        while taken := self.book.take_rows():
            rows += taken
        self.book = AlarmBook(retention_ns=HOUR_NS, split_bytes=1 << 20, secret=SECRET)
        self.book.load_rows(rows)


def alarm_id(random: Random, number: int) -> str:
    return str(UUID(int=random.getrandbits(128))) if number % 2 else f"{number}-" + "x" * 60


@pytest.mark.parametrize("seed", range(4))
def test_through_sweeps_moves_and_restarts(seed: int) -> None:
    random, kept = Random(seed), Kept()
    users = [f"user-{number}" for number in range(60)]
    ids = {
        user: [alarm_id(random, n) for n in range(random.choice([3, 40, 300]))] for user in users
    }
    for user in users:
        for one in ids[user]:
            kept.event(user, one, Status.WARNING)
    for user in random.sample(users, 20):
        kept.asked(user)
    before = kept.book.held_bytes
    for user in users:  # most are cleared, so that what is left lies thinly and moves together
        for one in ids[user]:
            if random.random() < 0.85:
                kept.event(user, one, Status.CLEARED)
    for user in random.sample(users, 10):
        kept.forget(user)
    kept.sweep(2 * HOUR_NS)
    assert kept.book.held_bytes < before / 2, "nothing has moved"
    # An alarm that was told stays told: only what becomes due from now on is.
    for user in random.sample(users, 30):
        for one in random.sample(ids[user], 2):
            kept.event(user, one, Status.CRITICAL)
    if seed % 2:
        kept.reload()
    kept.merge()
    assert kept.book.due_count == sum(map(len, kept.due.values()))
    for user in users:
        kept.asked(user)
    assert kept.book.due_count == 0


def test_a_block_in_the_middle_that_goes_takes_no_other_with_it() -> None:
    kept = Kept()
    # Three blocks of one user; ids so long that few go into each.
    ids = [f"{number:03}" + "x" * 900 for number in range(12)]
    for one in ids:
        kept.event("u", one, Status.WARNING)
    kept.merge()
    assert kept.book.block_count == 3
    for one in ids[4:8]:
        kept.event("u", one, Status.CLEARED)
    kept.sweep(2 * HOUR_NS)
    assert kept.book.block_count == 2
    kept.asked("u")
