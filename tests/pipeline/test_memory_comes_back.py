"""A state that was much larger gives its memory back, whatever is left of it."""

from __future__ import annotations

import sys

import pytest
from histories import START
from support.bus import Bus
from support.core import SECRET
from support.faults import publish_surely
from support.nats_server import NatsServer
from support.raw import frames_of, publish_raw
from support.records import EVENT, REQUEST, Routed, pack, unpack_outgoing
from support.service import ServiceProcess, memory
from support.wait import eventually

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.pipeline.worker import SWEEP_FRACTION, steps_of_a_barrier

pytestmark = pytest.mark.slow

CLEARED, WARNING = 0, 1
RETENTION_NS = 1_000
LATER = START + 10 * RETENTION_NS
MIB = 1024 * 1024


def new_book() -> AlarmBook:
    return AlarmBook(retention_ns=RETENTION_NS, split_bytes=16 * 1024, secret=SECRET)


def record(number: int, users: int, id_bytes: int, status: int, at: int = START) -> Routed:
    user, alarm = f"{number % users:0>36}", f"{number:0>{id_bytes}}"
    return Routed(EVENT, user.encode(), alarm.encode(), status, at, at, 0)


def fill(book: AlarmBook, alarms: int, users: int, *, left: int, id_bytes: int = 36) -> None:
    """Alarms that are cleared, but for every ``left``-th (0: none)."""
    for first in range(0, alarms, 10_000):
        numbers = range(first, min(first + 10_000, alarms))
        batch = pack(
            [
                record(n, users, id_bytes, WARNING if left and n % left == 0 else CLEARED)
                for n in numbers
            ]
        )
        assert book.merge(batch) == (b"", len(batch))


def take(book: AlarmBook) -> bytes:
    return b"".join(iter(book.take_rows, b""))


def checkpoints(book: AlarmBook, count: int) -> None:
    """What a worker does at so many barriers."""
    for _ in range(count):
        book.sweep(LATER, steps_of_a_barrier(book))
        take(book)


@pytest.mark.parametrize(
    ("users", "left", "written"),
    [
        (600, 0, True),
        (600, 100, True),
        (600, 5, False),
        (60_000, 0, False),
        (60_000, 100, True),
        (1, 100, True),
    ],
)
def test_a_book_shrinks_with_its_alarms_and_loses_none(
    users: int, left: int, written: bool
) -> None:
    alarms = 60_000
    book = new_book()
    fill(book, alarms, users, left=left)
    if written:
        take(book)
    most = book.held_bytes
    checkpoints(book, 3 * SWEEP_FRACTION)
    stays = alarms // left if left else 0
    assert (book.alarm_count, book.active_count, book.due_count) == (stays, stays, stays)
    assert book.user_count <= min(users, stays)
    assert book.held_bytes < most * (2.5 * stays / alarms) + 3 * MIB // 4
    # What has moved is found where it is now, by events, by requests, and by the next checkpoint.
    everyone = [Routed(REQUEST, f"{n:0>36}".encode(), b"", 0, 0, LATER, 0) for n in range(users)]
    again = pack([record(n * left, users, 36, WARNING) for n in range(stays)])
    assert book.merge(again)[0] == b""
    assert book.alarm_count == stays
    asked = pack(everyone)
    made, position = b"", 0
    while position < len(asked):
        more, position = book.merge(asked, position)
        made += more
    assert sum(one.body.count(b'"AlarmID"') for one in unpack_outgoing(made)) == stays
    loaded = new_book()
    loaded.load_rows(rows := take(book))
    assert (loaded.alarm_count, loaded.due_count) == (stays, 0)
    assert (rows == b"") == (stays == 0)


def test_one_alarm_after_many_were_forgotten_is_swept_within_the_usual_checkpoints() -> None:
    book = new_book()
    fill(book, 100_000, 1_000, left=0)
    checkpoints(book, 3 * SWEEP_FRACTION)
    assert book.alarm_count == 0
    fill(book, 1, 1, left=0)
    checkpoints(book, SWEEP_FRACTION)
    assert book.alarm_count == 0


def test_a_sweep_in_many_small_steps_misses_nothing_while_the_table_changes() -> None:
    book = new_book()
    for wave in range(3):
        fill(book, 10_000, 100, left=0, id_bytes=8 + wave)
        steps = 0
        while book.alarm_count and steps < 4 * 65_536:
            steps += 7
            book.sweep(LATER, 7)
        assert book.alarm_count == 0


@pytest.mark.parametrize("left", [0, 50])
def test_ids_of_other_lengths_use_the_memory_of_those_that_went(left: int) -> None:
    book, held = new_book(), []
    for id_bytes in (1_000, 8, 500, 1_000, 40, 1_000):
        fill(book, 10_000, 200, left=left, id_bytes=id_bytes)
        held.append(book.held_bytes)
        checkpoints(book, 3 * SWEEP_FRACTION)
    stays = sum(10_000 // left for _ in range(4)) if left else 0
    assert book.alarm_count == stays
    assert max(held) < held[0] * 1.3
    assert book.held_bytes < 3 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory")
def test_a_service_gives_back_what_forgotten_alarms_have_taken() -> None:
    alarms, options = 300_000, ["--retention", "2s", "--checkpoint-interval", "100ms"]

    def event(number: int, word: str) -> tuple[str, bytes]:
        return "AlarmStatusChanged", (
            f'{{"AlarmID":"{number:0>36}","UserID":"{number % 100_000:0>36}","Status":"{word}",'
            '"ChangedAt":"2021-06-07T20:40:00Z"}'
        ).encode()

    cleared = frames_of(event(number, "CLEARED") for number in range(alarms))
    with (
        NatsServer(extra="max_pending: 256MB") as server,
        ServiceProcess(server.url, options=[*options, "--workers", "2"]) as service,
        Bus(server.url) as bus,
    ):

        def wave() -> tuple[int, int]:
            """Memory at the most and afterwards."""
            read = service.metric("alarmdigest_book_events_total")
            publish_raw(server.url, cleared)
            most = 0

            def is_read() -> bool:
                nonlocal most
                most = max(most, memory(service))
                return service.metric("alarmdigest_book_events_total") >= read + alarms

            def is_expired() -> bool:
                nonlocal most
                most = max(most, memory(service))
                publish_surely(bus, [event(0, "WARNING")])
                return service.metric("alarmdigest_alarms") == 1

            eventually(is_read, timeout=30, what="all events")
            eventually(is_expired, timeout=30, interval=0.05, what="the end of the wave")

            def is_small() -> bool:
                publish_surely(bus, [event(0, "WARNING")])
                return memory(service) < before + (most - before) / 3

            eventually(is_small, timeout=15, interval=0.1, what="less memory")
            return most, memory(service)

        publish_surely(bus, [event(0, "WARNING")])
        before = memory(service)
        figures = [wave(), wave()]
        print(f"RssAnon in MiB: {before / MIB:.0f} before; most and after, wave by wave:")
        print([(most // MIB, after // MIB) for most, after in figures])
