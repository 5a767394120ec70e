"""What the compiled core asks of its callers: one thread at a time, batches that are batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from support.records import DIGEST, EVENT, Outgoing, Routed, pack, pack_outgoing

from alarmdigest._ext.alarmbook import CHECKED, AlarmBook
from alarmdigest._ext.inflight import InFlight


def book() -> AlarmBook:
    return AlarmBook(retention_ns=1, split_bytes=65536, secret=bytes(16))


def test_a_second_thread_in_the_same_book_is_told_and_harms_nothing() -> None:
    one = book()
    batch = pack([Routed(EVENT, b"u", b"%d" % n, 2, n, n) for n in range(100_000)])
    told: list[str] = []
    deadline = time.monotonic() + 20

    def again_and_again(call: Callable[[], object]) -> None:
        while not told and time.monotonic() < deadline:
            try:
                call()
            except RuntimeError as error:
                told.append(str(error))

    other = threading.Thread(target=again_and_again, args=(lambda: one.merge(batch),))
    other.start()
    again_and_again(one.take_rows)
    other.join()
    assert told, "they never met"
    assert "two threads use the same object" in told[0]
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
