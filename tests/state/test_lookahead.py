"""A book looks ahead in its batch: what it finds there early must not decide anything."""

from __future__ import annotations

from random import Random

import pytest
from histories import START
from model import Event, Forget, Message, Request, Status
from support.core import SECRET, Core, bodies_of, merged
from support.records import pack, unpack

from alarmdigest._ext.alarmbook import AlarmBook


def new_book() -> AlarmBook:
    return AlarmBook(retention_ns=1_000, split_bytes=16 * 1024, secret=SECRET)


def rows_of(book: AlarmBook) -> bytes:
    book.mark_all_changed()
    taken = b""
    while rows := book.take_rows():
        taken += rows
    return taken


def messages(random: Random, count: int, users: int, alarms: int) -> list[Message]:
    """New users and alarms among known ones, users who are forgotten and come again at once, and
    requests, all close together."""
    made: list[Message] = []
    for time in range(count):
        user, alarm = f"u{random.randrange(users)}", f"a{random.randrange(alarms)}"
        status = random.choice(list(Status))
        kinds: list[Message] = [Event(user, alarm, status, time), Request(user), Forget(user)]
        made.append(random.choices(kinds, weights=[12, 3, 1])[0])
    return made


@pytest.mark.parametrize(("users", "alarms"), [(1, 3), (3, 400), (2000, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_a_batch_as_a_whole_gives_what_its_records_give_one_by_one(
    users: int, alarms: int, seed: int
) -> None:
    core = Core()
    # The tables grow several times, in the middle of what was looked at.
    for number, message in enumerate(messages(Random(seed), 6000, users, alarms)):
        core.route_message(message, START + number)
    batch = core.router.take(0)
    at_once, singly = new_book(), new_book()
    together = merged(at_once, batch)
    one_by_one = [body for record in unpack(batch) for body in merged(singly, pack([record]))]
    assert together == one_by_one
    assert together, "no digest at all"
    assert at_once.counters == singly.counters
    assert rows_of(at_once) == rows_of(singly)


def test_a_batch_that_makes_more_than_one_call_returns_goes_on_where_it_ended() -> None:
    core = Core()
    ids = [f"{number:0100}" for number in range(200)]
    expected = 40
    for user in range(expected):
        for one in ids:
            core.route_message(Event(f"u{user}", one, Status.WARNING, 1), START)
    for user in range(expected):
        core.route_message(Request(f"u{user}"), START)
    batch, position, bodies, calls = core.router.take(0), 0, list[bytes](), 0
    book = AlarmBook(retention_ns=0, split_bytes=1 << 20, secret=SECRET)
    while position < len(batch):
        made, position = book.merge(batch, position)
        bodies += bodies_of(made)
        calls += 1
    assert (len(bodies), len(set(bodies))) == (expected, expected)
    assert calls > 1
