"""The scheduler: very many who are due at one moment, and one whose alarm is critical; and what the
service spends on telling it."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from typing import Any

from report import Report
from rig import nats_server
from support.bridge import Streams
from support.bus import Bus
from support.scheduler import SchedulerProcess, event, schedule
from support.service import ServiceProcess, memory
from support.wait import eventually

DUE_AT_ONCE = int(os.environ.get("ALARMDIGEST_BENCH_DUE", "100000"))
LONE = 200


def test_many_due_at_once(benchmark: Any, report: Report) -> None:
    """All of them wait for the end of one pause; then each gets a request and a digest."""
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        schedule(server.url, "set", "--default", "--within", "0s")
        schedule(server.url, "pause", "--default")
        service = ServiceProcess(server.url, mode="stream")
        stack.enter_context(service)
        scheduler = stack.enter_context(SchedulerProcess(server.url))
        streams = Streams(server, create=False)
        stack.callback(streams.close)
        empty = memory(scheduler)
        bus = stack.enter_context(Bus(server.url))
        for first in range(0, DUE_AT_ONCE, 5000):
            some = range(first, min(first + 5000, DUE_AT_ONCE))
            bus.publish_all([("AlarmStatusChanged", event(f"user-{number}")) for number in some])
            bus.flush()
        waiting = "alarmdigest_scheduler_waiting"
        eventually(lambda: scheduler.metric(waiting) == DUE_AT_ONCE, timeout=300, interval=0.2)
        held = memory(scheduler) - empty

        def all_told() -> None:
            schedule(server.url, "resume", "--default")
            eventually(
                lambda: streams.info("ALARM_DIGESTS").messages == DUE_AT_ONCE,
                timeout=300,
                interval=0.05,
            )

        benchmark.pedantic(all_told, rounds=1)
        took_s = benchmark.stats.stats.max
        assert streams.info("ALARMS").messages == 2 * DUE_AT_ONCE
    report.row("scheduler", "requests/s, all due at once", DUE_AT_ONCE / took_s, "")
    report.row("scheduler", "bytes for each who waits", held / DUE_AT_ONCE, "", better="less")


def test_a_critical_alarm_at_rest(benchmark: Any, report: Report) -> None:
    """From publishing the event to its digest on the wire, with a window of 0 s."""
    times: list[float] = []
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        schedule(server.url, "set", "--default", "--within", "0s")
        stack.enter_context(ServiceProcess(server.url, mode="stream"))
        scheduler = stack.enter_context(SchedulerProcess(server.url))
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service") == 1)
        bus = stack.enter_context(Bus(server.url))

        def one() -> None:
            began = time.perf_counter()
            bus.publish_all([("AlarmStatusChanged", event("ada", f"alarm-{len(times)}"))])
            bus.flush()
            bus.wait_for_digests(len(times) + 1)
            times.append(time.perf_counter() - began)

        benchmark.pedantic(one, rounds=LONE)
    report.row(
        "scheduler",
        "event to digest at rest, p50",
        statistics.median(times) * 1e3,
        "ms",
        better="less",
    )
