"""What the compiled core asks of its callers: one thread at a time, and batches that are batches."""

from __future__ import annotations

import threading
import time

import pytest
from support.records import DIGEST, EVENT, Outgoing, Routed, pack, pack_outgoing

from alarmdigest._ext.alarmbook import CHECKED, AlarmBook
from alarmdigest._ext.inflight import InFlight


def book() -> AlarmBook:
    return AlarmBook(retention_ns=1, split_bytes=65536, secret=bytes(16))


def test_a_second_thread_in_the_same_book_is_told_and_harms_nothing() -> None:
    one = book()
    batch = pack([Routed(EVENT, b"u", b"%d" % n, 2, n, n) for n in range(100_000)])
    told = threading.Event()

    def merge() -> None:
        while not told.is_set():
            try:
                one.merge(batch)
            except RuntimeError:  # it may be this one that comes second
                told.set()

    other = threading.Thread(target=merge)
    other.start()
    deadline = time.monotonic() + 20
    while not told.is_set() and time.monotonic() < deadline:
        try:
            one.take_rows()
        except RuntimeError as error:
            assert "two threads use the same object" in str(error)
            told.set()
    other.join()
    assert told.is_set(), "they never met"
    one.merge(batch)
    assert one.alarm_count == 100_000


GOOD = pack([Routed(EVENT, b"user", b"alarm", 1, 5, 5)])
MESSAGE = pack_outgoing([Outgoing(DIGEST, b"A: b\r\n", b"{}")])


@pytest.mark.skipif(not CHECKED, reason="only a debug build checks batches (make sanitize)")
@pytest.mark.parametrize("batch", [GOOD[:-1], GOOD[:10], GOOD + b"x", b"\xff" * 32], ids=repr)
def test_a_debug_build_checks_batches(batch: bytes) -> None:
    with pytest.raises(ValueError, match="routed record"):
        book().merge(batch)
    book().merge(GOOD)
    with pytest.raises(ValueError, match="outgoing record"):
        InFlight().add(MESSAGE[:-8])
    InFlight().add(MESSAGE)
