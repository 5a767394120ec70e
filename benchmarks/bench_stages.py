"""Each stage alone, in this process, so that a regression has an address. Figures per message.

They are compared with the first of them, the scan for frames.
"""

from __future__ import annotations

import queue
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmh3
import orjson
import pytest
from load import events, request, user_id
from report import Report

from alarmdigest._ext import frames, outgoing
from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest._ext.router import EVENT_SIDS, REQUEST_SIDS, STREAM_SID, Router
from alarmdigest.store import Checkpoint
from alarmdigest.store.lmdb.store import LmdbStore
from alarmdigest.wire.buckets import BUCKETS

USERS, ALARMS = 2000, 25
EVENTS = USERS * ALARMS
GROUP = "stages"


def delivered(frames_of_pub: bytes, sid: int) -> bytes:
    """PUB frames as a server hands them on."""
    return frames_of_pub.replace(b"PUB AlarmStatusChanged ", b"MSG AlarmStatusChanged %d " % sid)


def wire(key: str = "UserID", second: int = 0) -> bytes:
    return delivered(events(USERS, ALARMS, second, key=key), EVENT_SIDS[0])


def refuse(*_args: object) -> None:
    raise AssertionError("none of these needs the slow reader")


def router(workers: int = 12, parse_leniently: Callable[..., Any] = refuse) -> Router:
    return Router(
        workers=workers,
        buckets=BUCKETS,
        hash32=mmh3.hash,
        skew_ns=0,
        read_or_reject=parse_leniently,
    )


def route(made: Router, load: bytes) -> None:
    position = 0
    while position < len(load):
        position = made.scan(load, position, len(load), 1)


def book() -> AlarmBook:
    return AlarmBook(retention_ns=10**18, split_bytes=1 << 20, secret=b"sixteen bytes ok")


def batches(second: int = 0) -> bytes:
    made = router(workers=1)
    route(made, wire(second=second))
    return made.take(0)


def merge(into: AlarmBook, batch: bytes) -> list[bytes]:
    made, position = [], 0
    while position < len(batch):
        digests, position = into.merge(batch, position)
        made.append(digests)
    return made


def requests() -> bytes:
    made = router(workers=1)
    load = b"".join(
        b"MSG SendAlarmDigest %d %d\r\n%b\r\n" % (REQUEST_SIDS[0], len(body), body)
        for _, body in (request(user_id(user)) for user in range(USERS))
    )
    route(made, load)
    return made.take(0)


def stage(
    benchmark: Any,
    report: Report,
    what: str,
    work: Callable[..., object],
    *,
    count: int = EVENTS,
    prepare: Callable[[], tuple[Any, ...]] = tuple,
    unit: str = "ns an event",
) -> None:
    benchmark.pedantic(work, setup=lambda: (prepare(), {}), rounds=9, warmup_rounds=1)
    report.row(GROUP, what, benchmark.stats.stats.median / count * 1e9, unit, better="less")
    scan = next(row.value for row in report.rows if row.group == GROUP) if report.rows else 0
    report.rows[-1].ratio = report.rows[-1].value / scan
    report.rows[-1].reference = "scan"


def test_scan(benchmark: Any, report: Report) -> None:
    load = wire()

    def scan() -> None:
        assert frames.skim(load, 0, len(load))[0] == EVENTS

    stage(benchmark, report, "scan for frames", scan)


def test_decode(benchmark: Any, report: Report) -> None:
    found, _ = frames.scan(wire(), 0, len(wire()))
    bodies = [frame[5] for frame in found]
    loads = orjson.loads

    def decode() -> None:
        for body in bodies:
            loads(body)

    stage(benchmark, report, "decode: orjson, from Python", decode)


def test_hash(benchmark: Any, report: Report) -> None:
    users = [user_id(number) for number in range(EVENTS)]
    hash32 = mmh3.hash

    def hash_all() -> None:
        for user in users:
            hash32(user, 0, False)

    stage(benchmark, report, "hash: mmh3, from Python", hash_all)


@pytest.mark.parametrize("key", ["UserID", "UserId"])
def test_route(benchmark: Any, report: Report, key: str) -> None:
    load = wire(key)
    stage(
        benchmark,
        report,
        f"scan, decode, check, hash, pack ({key})",
        lambda: route(router(), load),
    )


def test_route_both_spellings(benchmark: Any, report: Report) -> None:
    halves = [wire("UserID")[: len(wire()) // 2], wire("UserId")[: len(wire()) // 2]]
    load = b"".join(half[: half.rindex(b"MSG ")] for half in halves)
    count = load.count(b"MSG ")
    stage(benchmark, report, "the same, both spellings", lambda: route(router(), load), count=count)


def test_route_escaped(benchmark: Any, report: Report) -> None:
    """Ids in UTF-8 beyond ASCII, written as escapes: read in place too."""
    load = b"".join(
        b"MSG AlarmStatusChanged %d %d\r\n%b\r\n" % (EVENT_SIDS[0], len(body), body)
        for body in (
            b'{"AlarmID":"\\u00fcber\\"%d","UserID":"\\u00e9t\\u00e9-%d","Status":"WARNING",'
            b'"ChangedAt":"2021-06-07T20:40:15.598765212Z"}' % (number, number % USERS)
            for number in range(EVENTS)
        )
    )
    stage(benchmark, report, "the same, escaped ids", lambda: route(router(), load))


def test_route_a_stream(benchmark: Any, report: Report) -> None:
    found, _ = frames.scan(wire(), 0, len(wire()))
    load = b"".join(
        b"MSG AlarmStatusChanged 9 $JS.ACK.ALARMS.c.1.%d.%d.1600000000000000000.5 %d\r\n%b\r\n"
        % (number, number, len(frame[5]), frame[5])
        for number, frame in enumerate(found, 1)
    )
    load = load.replace(b"AlarmStatusChanged 9 ", b"AlarmStatusChanged %d " % STREAM_SID)

    def work() -> None:
        made = router()
        made.begin_deliveries(0)
        route(made, load)
        assert made.delivered == EVENTS

    stage(benchmark, report, "the same, out of a stream", work)


def test_hand_over(benchmark: Any, report: Report) -> None:
    """Batches of a worker through its queue, as large as 2 MiB read make them."""
    reads = 2 * 1024 * 1024 // (len(wire()) // EVENTS)
    waiting: queue.Queue[bytes] = queue.Queue()
    batch = bytes(2 * 1024 * 1024 // 12)

    def hand_over() -> None:
        for _ in range(12):
            waiting.put(batch)
            waiting.get(timeout=1)

    stage(benchmark, report, "hand-over to 12 queues", hand_over, count=reads)


def test_merge(benchmark: Any, report: Report) -> None:
    first = batches()
    stage(
        benchmark,
        report,
        "merge new alarms",
        lambda one: merge(one, first),
        prepare=lambda: (book(),),
    )


def test_merge_known(benchmark: Any, report: Report) -> None:
    first, newer = batches(), batches(second=1)

    def known() -> tuple[AlarmBook]:
        made = book()
        merge(made, first)
        return (made,)

    stage(benchmark, report, "merge known ones", lambda one: merge(one, newer), prepare=known)


def filled() -> tuple[AlarmBook]:
    made = book()
    merge(made, batches())
    return (made,)


def test_encode(benchmark: Any, report: Report) -> None:
    asked = requests()
    stage(
        benchmark,
        report,
        "digests of 25 alarms: select, sort, write",
        lambda one: merge(one, asked),
        prepare=filled,
        count=EVENTS,
        unit="ns an alarm",
    )


def test_frame(benchmark: Any, report: Report) -> None:
    [one] = filled()
    made = b"".join(merge(one, requests()))
    stage(
        benchmark,
        report,
        "digests of 25 alarms: frame",
        lambda: outgoing.Framer().to_wire(made, b"AlarmDigest", b"AlarmRejected", b"id-", 1 << 20),
        count=EVENTS,
        unit="ns an alarm",
    )


def test_rows(benchmark: Any, report: Report) -> None:
    def take(one: AlarmBook) -> None:
        while one.take_rows():
            pass

    stage(
        benchmark,
        report,
        "checkpoint: rows of changed alarms",
        take,
        prepare=filled,
        unit="ns an alarm",
    )


def test_commit(benchmark: Any, report: Report, tmp_path: Path) -> None:
    """One synced transaction; into a new store each time."""
    numbers = iter(range(100))

    def prepare() -> tuple[LmdbStore, list[bytes], int]:
        [one] = filled()
        rows = []
        while chunk := one.take_rows():
            rows.append(chunk)
        return LmdbStore(tmp_path / str(next(numbers))), rows, one.block_count

    def commit(store: LmdbStore, rows: list[bytes], blocks: int) -> None:
        store.commit(
            rows,
            Checkpoint(
                number=1,
                written_at_ns=1,
                position=None,
                arrival_ns=1,
                outputs={},
                settings={},
                blocks=blocks,
            ),
        )
        store.close()

    stage(
        benchmark,
        report,
        "checkpoint: LMDB, synced",
        commit,
        prepare=prepare,
        unit="ns an alarm",
    )


def test_hold_of_the_gil(benchmark: Any, report: Report) -> None:
    """How long one compiled call keeps all other threads waiting, where it holds the GIL."""
    load, took = wire(), list[float]()

    def steps() -> None:
        made, position = router(), 0
        while position < len(load):
            started = time.perf_counter()
            position = made.scan(load, position, len(load), 1)
            took.append(time.perf_counter() - started)

    benchmark.pedantic(steps, rounds=5)
    report.row(
        GROUP,
        "one call of the router, median",
        statistics.median(took) * 1e6,
        "µs",
        target="<= 500",
        better="less",
    )
