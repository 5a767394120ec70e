"""What the stream deletes before the service comes to read it, while it reads: counted, and
reported with the range and the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bus import Bus
from support.faults import pairs, patched
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.streams import (
    ALARMS,
    INPUTS,
    QUICK,
    add,
    js,
    numbers_in,
    store_all,
    update,
    wait_until_read,
)
from support.wait import eventually

from alarmdigest.pipeline.sources.gaps import Gaps

DELETED = "alarmdigest_stream_deleted_total"
EXPIRED = "alarmdigest_stream_expired_unread_total"
GONE = "alarmdigest_stream_unread_lost_total"
REPORT = r"ERROR .*messages were deleted before we read them, while .* stream=ALARMS "


def slow_reader(gate: Path) -> tuple[str, str]:
    """A service that asks for the first 10 messages, and for more once the file exists."""
    return patched(f"""
import pathlib
import alarmdigest.pipeline.sources.pulls as pulls
import alarmdigest.pipeline.sources.pull_consumer as source
assert pulls.PULL_MESSAGES and pulls.ALL_PULLS_BYTES
pulls.PULL_MESSAGES, pulls.ALL_PULLS_BYTES = 10, 1
turn = source.PullConsumerSource.request_more
def turn_once(self, connection, router, *, pause):
    waits = self._pulls._asked > 0 and not pathlib.Path({str(gate)!r}).exists()
    turn(self, connection, router, pause=pause or waits)
source.PullConsumerSource.request_more = turn_once
""")


@pytest.fixture(params=[INPUTS, [*INPUTS, "others.>"]], ids=["ours alone", "with others"])
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, ALARMS, request.param)
        yield bus


@pytest.fixture
def service(bus: Bus, tmp_path: Path) -> Iterator[ServiceProcess]:
    """It has read 10 messages of 40, and waits."""
    store_all(bus, pairs(range(20)))
    url = bus.client.connected_url
    assert url is not None
    program = slow_reader(tmp_path / "gate")
    with ServiceProcess(url.geturl(), mode="stream", options=QUICK, program=program) as service:
        wait_until_read(service, 10)
        yield service


def test_what_a_limit_deletes_under_a_reader_that_waits(
    bus: Bus, service: ServiceProcess, tmp_path: Path
) -> None:
    update(bus, ALARMS, max_msgs=6)
    (tmp_path / "gate").touch()
    report = service.wait_for_log(REPORT + r".*")[0]
    assert "first=11 last=34 missing=24 stream_begins_at=35" in report
    assert "a limit of the stream, or a purge" in report
    wait_until_read(service, 40)
    assert [service.metric(name) for name in (DELETED, EXPIRED, GONE)] == [24, 24, 0]
    assert service.metric('alarmdigest_lost_total{place="stream_deleted"}') == 24
    left = [*range(5), *range(17, 20)]
    eventually(lambda: sorted(numbers_in(bus)) == left, what="what was left")


def test_what_is_deleted_singly_under_a_reader_that_waits(
    bus: Bus, service: ServiceProcess, tmp_path: Path
) -> None:
    for sequence in (13, 14, 21):
        assert bus.run(js(bus).delete_msg(ALARMS, sequence))
    (tmp_path / "gate").touch()
    report = service.wait_for_log(REPORT + r".*")[0]
    wait_until_read(service, 40)
    # Those of one pull are in one report, the others may come with the next.
    assert re.search(r"first=13 last=(14 missing=2|21 missing=3) stream_begins_at=1 ", report)
    assert "deleted singly, or by a limit per subject" in report
    assert "a limit of the stream" not in report
    assert [service.metric(name) for name in (DELETED, EXPIRED)] == [3, 0]


def test_what_a_purge_deletes_under_a_reader_that_waits(
    bus: Bus, service: ServiceProcess, tmp_path: Path
) -> None:
    bus.run(js(bus).purge_stream(ALARMS))
    store_all(bus, pairs([100]))
    (tmp_path / "gate").touch()
    report = service.wait_for_log(REPORT + r".*")[0]
    assert "first=11 last=40 missing=30 stream_begins_at=41" in report
    wait_until_read(service, 42)
    assert [service.metric(name) for name in (DELETED, EXPIRED)] == [30, 30]


def test_reports_are_few_and_leave_out_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = Gaps("ALARMS")
    assert gaps.on_read((5, 9, 5))
    assert not gaps.on_read((12, 12, 1)), "it is asked already"
    gaps.report(8)
    assert gaps.expired == 3
    assert not gaps.on_read((20, 29, 4)), "a report was just now"
    monkeypatch.setattr(gaps, "_report_at", 0.0)
    assert gaps.on_read((31, 31, 1))
    gaps.report(1000)
    assert gaps.expired == 3 + 5
    assert not gaps.on_read(None)
