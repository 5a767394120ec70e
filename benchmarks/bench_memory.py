"""Memory per alarm, and whether anything slows down as the number of alarms grows."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from load import event, events, publisher
from report import Report
from rig import WORKERS, Round, Service, nats_server, seconds, side_by_side, the_end, timed
from support.raw import frames_of
from support.service import memory
from support.wait import eventually


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def fill(service: Service, url: str, users: range, alarms: int, second: int) -> int:
    """Publish one event for each alarm; how many events that was, last words included."""
    load = frames_of(event(user, alarm) for alarm in range(alarms) for user in users)
    with publisher(url, [load, the_end(second=second)]) as go:
        go()
        service.wait()
    return len(users) * alarms + WORKERS


def test_memory_of_a_million_alarms(benchmark: Any, report: Report) -> None:
    """Above the idle process; memory of its own, without mapped files."""
    users, alarms = 40_000, 25
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        service = Service(stack, server)
        # The first traffic brings buffers and code into memory that stay.
        warm = fill(service, server.url, range(100), 5, 0)
        idle = memory(service.process)
        with publisher(server.url, [events(users, alarms, 1), the_end(second=1)]) as go:

            def play() -> None:
                go()
                service.wait()

            benchmark.pedantic(play, rounds=1)
        service.assert_merged(warm + users * alarms + WORKERS)
        # What only the burst needed is given back with the next small checkpoint: at rest after ten
        # seconds.
        seen: list[int] = []

        def settled() -> bool:
            seen.append(memory(service.process))
            return len(seen) > 60 and max(seen[-60:]) - min(seen[-60:]) < 1_000_000

        eventually(settled, timeout=90, interval=0.25, what="memory that does not change")
        count = service.process.metric("alarmdigest_alarms") - 500 - 2 * WORKERS
        report.row(
            "memory",
            "of each of 1 M alarms",
            (memory(service.process) - idle) / count,
            "bytes",
            target="<= 110",
            better="less",
        )


def test_growth(benchmark: Any, report: Report) -> None:
    """Newer events of known alarms: where there are 100,000, and 10 million (or what fits)."""
    large = 10_000_000 if available_bytes() > 8e9 else 2_000_000
    users, alarms, step = 20_000, 5, 1_000_000
    times = 5  # each of the alarms changes so often in a round
    seconds_left = iter(range(20, 60))
    with ExitStack() as stack:
        few, many = stack.enter_context(nats_server()), stack.enter_context(nats_server())
        small, big = Service(stack, few), Service(stack, many)
        fill(small, few.url, range(users), alarms, 0)
        for number in range(large // step):
            first = number * step // 25
            fill(big, many.url, range(first, first + step // 25), 25, number)
        assert big.process.metric("alarmdigest_alarms") >= large

        def play(service: Service, url: str) -> Round:
            chunks = [events(users, alarms, next(seconds_left)) for _ in range(times)]
            with publisher(url, [*chunks, the_end(second=next(seconds_left))]) as go:
                return timed(go, service)

        ours, others = side_by_side(
            benchmark,
            lambda: play(big, many.url),
            {"few alarms": lambda: play(small, few.url)},
            rounds=3,
        )
        for service in (small, big):
            assert service.process.metric('alarmdigest_dropped_total{kind="event"}') == 0
    report.row(
        "memory",
        f"events merged, with {large:,} alarms",
        users * alarms * times / seconds(ours),
        "/s",
        ratio=seconds(others["few alarms"]) / seconds(ours),
        reference="with 100,000",
        target=">= 0.85",
    )
