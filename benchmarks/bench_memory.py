"""Memory per alarm, at a million."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from load import event, events, publisher
from report import Report
from rig import WORKERS, Service, nats_server, the_end
from support.raw import frames_of
from support.service import memory
from support.wait import eventually


def fill(service: Service, url: str, users: range, alarms: int, second: int) -> int:
    """Publish one event for each alarm; how many events that was, last words included."""
    load = frames_of(event(user, alarm) for alarm in range(alarms) for user in users)
    with publisher(url, [load, the_end(second=second)]) as go:
        go()
        service.wait()
    return len(users) * alarms + WORKERS


@pytest.mark.parametrize("ids", ["36 characters", "36 characters that are no UUID"])
def test_memory_of_a_million_alarms(benchmark: Any, report: Report, ids: str) -> None:
    """Above the idle process; memory of its own, without mapped files."""
    users, alarms = 40_000, 25
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        service = Service(stack, server)
        # The first traffic brings buffers and code into memory that stay.
        warm = fill(service, server.url, range(100), 5, 0)
        idle = memory(service.process)
        load = events(users, alarms, 1)
        if "no UUID" in ids:
            load = load.replace(b"-4bbb-", b"_4bbb_")
        with publisher(server.url, [load, the_end(second=1)]) as go:

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
            f"of each of 1 M alarms, ids of {ids}",
            (memory(service.process) - idle) / count,
            "bytes",
            target="<= 110" if "no UUID" in ids else "<= 90",
            better="less",
        )
