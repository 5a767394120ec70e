"""How soon a service with a million alarms is ready again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import pytest
from load import events, publisher
from report import Report
from rig import WORKERS, Service, nats_server, the_end
from support.service import ServiceProcess

USERS, ALARMS = 40_000, 25


def imports_seconds() -> float:
    """A process that imports what the service does, and ends."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import alarmdigest.process.runner"],
        check=True,
        env=dict(os.environ),
    )
    return time.perf_counter() - started


@pytest.mark.parametrize("mode", ["core", "stream"])
def test_ready_with_a_million_alarms(benchmark: Any, report: Report, mode: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        service = ServiceProcess(server.url, mode=mode, options=["--workers", str(WORKERS)])
        with service:
            with ExitStack() as inner:
                watched = Service(inner, server, running=service)
                go = inner.enter_context(publisher(server.url, [events(USERS, ALARMS), the_end()]))
                go()
                watched.wait()
            assert service.stop() == 0

            def stopped() -> tuple[tuple[()], dict[str, Any]]:
                if service.process.poll() is None:
                    assert service.stop() == 0
                return (), {}

            benchmark.pedantic(service.start, setup=stopped, rounds=5)
            assert service.metric("alarmdigest_alarms") == USERS * ALARMS + WORKERS
        took = benchmark.stats.stats.median
        imports = sorted(imports_seconds() for _ in range(5))[2]
        report.row(
            "restart", f"{mode}, 1 M alarms, in all", took, "s", target="<= 2", better="less"
        )
        report.row(
            "restart",
            f"{mode}, 1 M alarms, without the imports",
            took - imports,
            "s",
            target="<= 1",
            better="less",
        )
