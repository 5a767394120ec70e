"""The state in Cassandra beside the state on disk: one node, commit log `group`, same machine."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from load import events, publisher
from report import Report
from rig import WORKERS, Service, nats_server, the_end
from support.cassandra_node import CassandraNode
from support.keyspaces import claimed, new_keyspace
from support.rows import checkpoint, key_of, packed
from support.service import ServiceProcess

from alarmdigest.process.runner import SWITCH_INTERVAL_S
from alarmdigest.store import Store
from alarmdigest.store.lmdb.store import LmdbStore

ROWS = 28_160  # of a million alarms, 40,000 users with 25 each
FEW = 2_800
ROW_BYTES = 3900
USERS, ALARMS = 40_000, 25


@pytest.fixture(scope="module")
def node() -> Iterator[CassandraNode]:
    with CassandraNode() as node:
        yield node


class Pulse:
    """A thread that wakes every millisecond: how long it was ever kept from it."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        before = time.perf_counter()
        while not self._over.wait(0.001):
            now = time.perf_counter()
            self.longest_s = max(self.longest_s, now - before - 0.001)
            before = now

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class PulseElsewhere:
    """The same in a process of its own, which shares the cores and no lock with us: what the
    machine alone does to whoever wants to wake every millisecond."""

    SOURCE = """
import sys, threading, time
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
longest, before = 0.0, time.perf_counter()
while not over.wait(0.001):
    now = time.perf_counter()
    longest, before = max(longest, now - before - 0.001), now
print(longest)
"""

    def __enter__(self) -> PulseElsewhere:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SOURCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.longest_s = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.longest_s = float(self._process.communicate()[0])


def test_a_commit(benchmark: Any, report: Report, node: CassandraNode, tmp_path: Path) -> None:
    """All rows of a million alarms, then some: until acknowledged, and until folded."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # both as the service does
    gc.freeze()
    try:
        with (
            claimed(new_keyspace(node).target) as cassandra,
            LmdbStore(tmp_path) as lmdb,
        ):
            stores: dict[str, Store] = {"cassandra": cassandra, "lmdb": lmdb}
            number = 0

            def commit(store: Store, rows: int, value: bytes) -> float:
                nonlocal number
                number += 1
                chunk = packed({key_of(f"u{row}"): value * ROW_BYTES for row in range(rows)})
                chunks = [chunk]
                started = time.perf_counter()
                store.commit(chunks, checkpoint(ROWS, number))
                return time.perf_counter() - started

            def fold(store: Store) -> float:
                started = time.perf_counter()
                while store.tidy_up():
                    pass
                return time.perf_counter() - started

            def play() -> None:
                for name, store in stores.items():
                    commit(store, ROWS, b"a")
                    fold(store)
                    with Pulse() as pulse, PulseElsewhere() as elsewhere:
                        all_rows, folded = commit(store, ROWS, b"b"), fold(store)
                    few = commit(store, FEW, b"c")
                    fold(store)
                    one = commit(store, 1, b"d")
                    stalls = pulse.longest_s, elsewhere.longest_s
                    took[name] = all_rows, folded, few, one, *stalls

            took: dict[str, tuple[float, ...]] = {}
            benchmark.pedantic(play, rounds=1)
    finally:
        sys.setswitchinterval(before)
    what = ("28,160 rows, acknowledged", "28,160 rows, folded", "2,800 rows, acknowledged", "1 row")
    targets = ("<= 5", "", "<= 1.5", "")
    for place, (text, target) in enumerate(zip(what, targets, strict=True)):
        report.row("cassandra", text, took["cassandra"][place], "s", target=target, better="less")
        report.row("cassandra", f"lmdb: {text}", took["lmdb"][place], "s", better="less")
    for name in stores:
        thread_ms, process_ms = (stall * 1e3 for stall in took[name][-2:])
        text = f"{name}: longest stall of another thread meanwhile"
        report.row("cassandra", text, thread_ms, "ms", target="<= 10", better="less")
        text = f"{name}: and of a process that does nothing else"
        report.row("cassandra", text, process_ms, "ms", better="less")


def rate(options: list[str]) -> float:
    """Events per second that come in by plain subscriptions, with a checkpoint every second."""
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        process = ServiceProcess(server.url, options=["--workers", str(WORKERS), *options])
        stack.enter_context(process)
        service = Service(stack, server, running=process)
        go = stack.enter_context(publisher(server.url, [events(USERS, ALARMS), the_end()]))
        started = time.perf_counter()
        go()
        service.wait()
        took = time.perf_counter() - started
        assert process.stop() == 0
        return USERS * ALARMS / took


def test_live_rate_and_start(benchmark: Any, report: Report, node: CassandraNode) -> None:
    keyspaces = [new_keyspace(node) for _ in range(3)]
    rates: dict[str, list[float]] = {"lmdb": [], "cassandra": []}

    def play() -> None:
        for keyspace in keyspaces:
            rates["lmdb"].append(rate([]))
            rates["cassandra"].append(rate(keyspace.options))

    benchmark.pedantic(play, rounds=1)
    median: Callable[[list[float]], float] = lambda found: sorted(found)[len(found) // 2]  # noqa: E731
    report.row(
        "cassandra",
        "events merged, new alarms",
        median(rates["cassandra"]),
        "/s",
        reference="with lmdb",
        ratio=median(rates["cassandra"]) / median(rates["lmdb"]),
        target=">= 0.5",
    )
    with nats_server() as server:
        options = ["--workers", str(WORKERS), *keyspaces[0].options]
        with ServiceProcess(server.url, options=options) as service:
            service.stop()
            started = time.perf_counter()
            service.start()
            report.row(
                "cassandra",
                "ready with a million alarms",
                time.perf_counter() - started,
                "s",
                target="<= 15",
                better="less",
            )
            assert service.metric("alarmdigest_alarms") >= USERS * ALARMS
