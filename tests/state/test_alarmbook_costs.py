"""What merging and digests may cost: no id makes a table slow, no history a digest, no alarm much
memory.

Times are compared with each other, never with a clock's idea of fast. A broken guarantee shows as
a factor of a hundred and more, so that a busy machine does not decide.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import median

import mmh3
import pytest
from histories import START
from model import Event, Message, Request, Status
from support.core import SECRET, Core, bodies_of, merged

from alarmdigest._ext.alarmbook import AlarmBook

MASK = 0xFFFF_FFFF


def batch_of(messages: list[Message]) -> bytes:
    """One worker's batch that holds them all."""
    core = Core()
    for message in messages:
        core.route_message(message, START)
    return core.router.take(0)


def new_book() -> AlarmBook:
    return AlarmBook(retention_ns=0, split_bytes=16 * 1024, secret=SECRET)


# Ids that a plain hash puts in one place


def _rotate_left(word: int, bits: int) -> int:
    return (word << bits | word >> (32 - bits)) & MASK


def _mix(block: int) -> int:
    """What MurmurHash3 makes of four bytes before it adds them to its state."""
    return _rotate_left(block * 0xCC9E2D51 & MASK, 15) * 0x1B873593 & MASK


def _unmix(mixed: int) -> int:
    product = _rotate_left(mixed * pow(0x1B873593, -1, 2**32) & MASK, 17)
    return product * pow(0xCC9E2D51, -1, 2**32) & MASK


def _twins(difference: int, random: Random) -> tuple[str, str]:
    """Two texts of four bytes that differ, after mixing, in this one bit."""
    while True:
        word = random.randbytes(4)
        twin = _unmix(_mix(int.from_bytes(word, "little")) ^ difference).to_bytes(4, "little")
        with suppress(UnicodeDecodeError):
            return word.decode(), twin.decode()


def colliding_ids(bits: int) -> list[str]:
    """``2 ** bits`` ids of one length with one MurmurHash3, whatever its seed.

    Bit 18 of a mixed block becomes bit 31 of the state, which the following multiplication leaves
    alone and bit 31 of the next mixed block takes away again.
    """
    random = Random(1)
    first, first_twin = _twins(1 << 18, random)
    second, second_twin = _twins(1 << 31, random)
    pairs = [first + second, first_twin + second_twin]
    return ["".join(choice) for choice in itertools.product(pairs, repeat=bits)]


COLLIDING = colliding_ids(12)


def test_the_ids_meant_to_collide_do_under_any_seed() -> None:
    assert len(set(COLLIDING)) == 4096
    for seed in (0, 1, 0xDEAD_BEEF):
        assert len({mmh3.hash(one, seed) for one in COLLIDING}) == 1


def best_merge_time(batch: bytes) -> float:
    times = []
    for _ in range(7):
        book = new_book()
        start = time.perf_counter()
        merged(book, batch)
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("what", ["alarms", "users"])
def test_ids_that_collide_under_mmh3_merge_as_fast_as_random_ones(what: str) -> None:
    def batch(names: list[str]) -> bytes:
        return batch_of(
            [
                Event(*(("u", one) if what == "alarms" else (one, "a")), Status.WARNING, 1)
                for one in names
            ]
        )

    random = Random(2)
    usual = ["".join(random.choices("0123456789abcdef", k=12 * 8)) for _ in COLLIDING]
    assert best_merge_time(batch(COLLIDING)) < 5 * best_merge_time(batch(usual))


def test_a_digest_costs_what_is_due_and_not_what_its_user_has() -> None:
    """But for the alarms of the blocks in which something is due: a hundred here."""

    def median_time(alarms: int) -> float:
        raised = [Event("u", f"{number}", Status.WARNING, 1) for number in range(alarms)]
        book = new_book()
        merged(book, batch_of([*raised, Request("u")]))
        times = []
        for first in range(0, 25 * 100, 100):
            due = batch_of(
                [
                    message
                    for now in range(first, first + 100)
                    for message in (
                        Event("u", "due", (Status.WARNING, Status.CRITICAL)[now % 2], now),
                        Request("u"),
                    )
                ]
            )
            start = time.perf_counter()
            made, position = book.merge(due)
            times.append(time.perf_counter() - start)
            assert (len(bodies_of(made)), position) == (100, len(due))
        assert book.alarm_count == alarms + 1
        return median(times)

    assert median_time(100_000) < 3 * median_time(150)


FILL_A_BOOK = """
import gc, sys
sys.path[:0] = {path!r}
from state.test_alarmbook_costs import anonymous_kib, filled_book

filled_book(1_000)  # whatever is made once is made now
gc.collect()
before = anonymous_kib()
book = filled_book({alarms})
gc.collect()
assert book.alarm_count == {alarms}
print((anonymous_kib() - before) * 1024 / {alarms})
"""


def anonymous_kib() -> int:
    """What this process holds in memory of its own, in KiB."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def filled_book(alarms: int) -> AlarmBook:
    """A book with so many alarms, ids as long as a UUID, 200 to a user."""
    book, core = new_book(), Core()
    for number in range(alarms):
        event = Event(f"user-{number // 200:0>31}", f"{number:0>36}", Status.WARNING, number)
        core.route_message(event, START)
        if number % 1000 == 999:
            bodies_of(book.merge(core.router.take(0))[0])
    return book


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells RssAnon")
def test_an_alarm_takes_less_than_130_bytes() -> None:
    """A guard against growing by accident, not a promise: about 95 are expected."""
    alarms = 200_000
    program = FILL_A_BOOK.format(path=sys.path, alarms=alarms)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 72 <= float(result.stdout) < 130
