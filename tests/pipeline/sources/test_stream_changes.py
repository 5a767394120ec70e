"""What happened to the streams under a service is seen where operators look."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.bus import Bus
from support.command import run_command
from support.faults import pairs
from support.nats_server import NatsServer
from support.paths import ROOT
from support.service import ServiceProcess
from support.streams import (
    ALARMS,
    DIGESTS,
    Saved,
    delete,
    metric_of,
    numbers_in,
    store_all,
    stream_service,
)
from support.wait import eventually

from alarmdigest.observability.stream_changes import CHANGES

DOCUMENT = (ROOT / "docs/operating-commands.md").read_text("utf-8")


def status_of(service: ServiceProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(service.http("/status.json")[1])
    return found


def wait_for_changes(service: ServiceProcess, *wanted: str) -> None:
    """Until each of these has been seen once, and nothing else."""
    goal = {change: int(change in wanted) for change in CHANGES}
    eventually(
        lambda: status_of(service)["stream_changes"] == goal,
        timeout=20,
        what=f"{wanted} in {status_of(service)['stream_changes']}",
    )
    assert counted(service) == goal


def counted(service: ServiceProcess) -> dict[str, float]:
    """The same as the metrics have it."""
    return {change: service.metric(metric_of(change)) for change in CHANGES}


def line_of_status(service: ServiceProcess) -> str:
    where = urlsplit(service.wait_for_log(r"on=(http://\S+)")[1]).netloc
    result = run_command("status", "--http", where)
    found = re.search(r"^stream changes +(.*)$", result.stdout, re.MULTILINE)
    assert found, result.stdout + result.stderr
    return found[1]


def test_every_change_is_documented() -> None:
    _before, section = DOCUMENT.split("| `stream_changes` says |")
    listed = re.findall(r"^\| `(\w+)` \|", section.split("\n\n")[0], re.MULTILINE)
    assert tuple(listed) == CHANGES


@pytest.mark.parametrize("mode", ["core", "stream"])
def test_all_are_there_with_0_and_the_command_says_none(mode: str) -> None:
    with NatsServer() as server, ServiceProcess(server.url, mode=mode) as service:
        assert status_of(service)["stream_changes"] == dict.fromkeys(CHANGES, 0)
        assert counted(service) == dict.fromkeys(CHANGES, 0)
        assert line_of_status(service) == "none"


def test_an_input_stream_that_is_deleted_is_seen() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        delete(bus, ALARMS)
        wait_for_changes(service, "input_recreated")
        assert line_of_status(service) == "input_recreated 1"


def test_an_output_stream_that_is_deleted_is_seen() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        delete(bus, DIGESTS)
        store_all(bus, pairs(range(10, 20)))
        wait_for_changes(service, "output_recreated")
        assert line_of_status(service) == "output_recreated 1"


def test_streams_that_are_put_back_from_an_older_copy_are_seen() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        saved = Saved(server)
        store_all(bus, pairs(range(10, 20)))
        eventually(lambda: len(numbers_in(bus)) == 20, what="all digests in their stream")
        confirmed = 'alarmdigest_published_total{kind="digest"}'
        eventually(lambda: service.metric(confirmed) == 20, what="all digests confirmed")
        saved.put_back()
        wait_for_changes(service, "input_truncated", "output_truncated")
        assert line_of_status(service) == "input_truncated 1, output_truncated 1"
