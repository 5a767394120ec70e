"""Clocks that are wrong by years, for a moment: ours in core mode, that of a stream's server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.bus import Bus
from support.command import run_command
from support.faults import Message, event, patched, request
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.stream_clock import shift_times
from support.streams import ALARMS, INPUTS, add, bodies, js, store_all, wait_until_read
from support.wait import eventually

from alarmdigest._ext import timestamps
from alarmdigest.pipeline.sources.clock import SteadyClock

HOUR_S = 3600
YEARS_S = 73 * 365 * 86_400
DAY_NS = 86_400 * 10**9
STEPS = "alarmdigest_clock_steps_total"
AHEAD = "alarmdigest_arrival_ahead_seconds"


def far_ahead(user: str) -> list[Message]:
    """An event of 2250 counts as of its arrival and the skew of an hour: its digest tells both."""
    subject, body = event(user, "a")
    return [(subject, body.replace(b"2021", b"2250")), request(user)]


def seen_at(body: bytes) -> int:
    """The arrival of such an event in seconds since 1970, out of the digest."""
    [alarm] = orjson.loads(body)["ActiveAlarms"]
    return timestamps.to_ns(alarm["LatestChangedAt"]) // 10**9 - HOUR_S


def status_of(service: ServiceProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(service.http("/status.json")[1])
    return found


@pytest.fixture
def wrong_by(tmp_path: Path) -> Callable[[int], None]:
    """Sets the service's clock wrong by so many seconds."""
    file = tmp_path / "wrong_by"

    def set_wrong(seconds: int) -> None:
        file.with_suffix(".new").write_text(str(seconds))
        file.with_suffix(".new").rename(file)

    set_wrong(0)
    return set_wrong


@pytest.fixture
def wrong_clock(tmp_path: Path) -> tuple[str, str]:
    return patched(f"""
import pathlib, time
right = time.time_ns
wrong_by = pathlib.Path({str(tmp_path / "wrong_by")!r})
time.time_ns = lambda: right() + int(wrong_by.read_text()) * 10**9
""")


@pytest.fixture
def bus() -> Iterator[Bus]:
    with NatsServer() as server, Bus(server.url) as bus:
        yield bus


def core_service(bus: Bus, program: tuple[str, str]) -> ServiceProcess:
    url = bus.client.connected_url
    assert url is not None
    return ServiceProcess(url.geturl(), options=["--workers", "2"], program=program)


def ask(bus: Bus, user: str) -> int:
    """Of a new user, when his event arrived."""
    count = len(bus.digests)
    bus.publish_all(far_ahead(user))
    bus.wait_for_digests(count + 1)
    return seen_at(bus.digests[-1].body)


def now_s() -> int:
    return time.time_ns() // 10**9


@pytest.mark.parametrize("step_s", [YEARS_S, 2 * 86_400, -2 * 86_400])
def test_core_mode_does_not_go_along_with_a_step_of_our_clock(
    bus: Bus, wrong_clock: tuple[str, str], wrong_by: Callable[[int], None], step_s: int
) -> None:
    with core_service(bus, wrong_clock) as service:
        assert abs(ask(bus, "before") - now_s()) < 60
        wrong_by(step_s)
        assert abs(ask(bus, "after") - now_s()) < 60
        assert service.metric(STEPS) == 1
        assert service.metric(AHEAD) == pytest.approx(-step_s, abs=60)
        assert status_of(service)["arrival"]["steps"] == 1
        service.wait_for_log("ERROR .*our clock has stepped by over a day: arrivals go on by")
        wrong_by(0)
        assert abs(ask(bus, "right again") - now_s()) < 60
        assert service.metric(AHEAD) == pytest.approx(0, abs=60)
        service.wait_for_log("our clock agrees again")


def test_core_mode_goes_along_with_less(
    bus: Bus, wrong_clock: tuple[str, str], wrong_by: Callable[[int], None]
) -> None:
    with core_service(bus, wrong_clock) as service:
        ask(bus, "before")
        wrong_by(20 * HOUR_S)
        assert abs(ask(bus, "after") - now_s() - 20 * HOUR_S) < 60
        assert service.metric(STEPS) == 0


def test_told_so_core_mode_goes_along_forwards_and_back(
    bus: Bus, wrong_clock: tuple[str, str], wrong_by: Callable[[int], None]
) -> None:
    service = core_service(bus, wrong_clock)
    service.change_options("--accept-clock-step")
    with service:
        ask(bus, "before")
        wrong_by(YEARS_S)
        assert abs(ask(bus, "after") - now_s() - YEARS_S) < 60
        wrong_by(0)
        eventually(lambda: abs(service.metric(AHEAD)) < 60, what="the arrival clock to come back")
        assert abs(ask(bus, "right again") - now_s()) < 60
        assert service.metric(STEPS) == 2


def test_a_store_from_the_future_is_refused_in_core_mode_until_told(
    bus: Bus, wrong_clock: tuple[str, str], wrong_by: Callable[[int], None]
) -> None:
    wrong_by(YEARS_S)
    with core_service(bus, wrong_clock) as service:
        assert abs(ask(bus, "in 2099") - now_s() - YEARS_S) < 60
        assert service.stop() == 0
        wrong_by(0)
        service.start(ready=False)
        assert service.wait() == 2
        assert "one of both is wrong" in service.log
        assert "--accept-clock-step" in service.log
        service.change_options("--accept-clock-step")
        service.start()
        assert service.stop() == 0
        # Once is enough, also where nothing came meanwhile.
        service._arguments.remove("--accept-clock-step")
        service.start()
        assert abs(ask(bus, "today") - now_s()) < 60
        assert service.stop() == 0
    with core_service(bus, wrong_clock) as service:
        pass


def test_a_stream_from_the_future_is_believed_and_seen_and_there_is_a_way_back() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, ALARMS, INPUTS)
        store_all(bus, [*far_ahead("before"), *far_ahead("in 2099")])
        server.stop()
        shift_times(server.store, ALARMS, YEARS_S * 10**9, behind=2)
        server.start()
        options = ["--workers", "2"]
        with ServiceProcess(server.url, mode="stream", options=options) as service:
            store_all(bus, far_ahead("after"))
            wait_until_read(service, 6)
            eventually(lambda: len(bodies(bus, "ALARM_DIGESTS")) == 3, what="the digests")
            times = sorted(seen_at(body) - now_s() for body in bodies(bus, "ALARM_DIGESTS"))
            # The stream alone decides: what comes behind 2099 arrives behind 2099.
            assert [round(one / YEARS_S) for one in times] == [0, 1, 1]
            assert service.metric(AHEAD) == pytest.approx(YEARS_S, abs=60)
            assert service.metric(STEPS) == 1
            arrival = status_of(service)["arrival"]
            assert arrival["ahead_seconds"] == pytest.approx(YEARS_S, abs=60)
            address = service.wait_for_log(r"on=http://(\S+)")[1]
            status = run_command("status", "--http", address).stdout
            assert re.search(r"\nclock +arrivals go by 2\d{3}-.* days ahead of our clock", status)
            assert arrival["steps"] == 1
            service.wait_for_log("WARNING .*the stream's times are over a day ahead of our")
            # The way back, as docs/faq.md has it.
            assert service.stop() == 0
            for sequence in (3, 4):
                assert bus.run(js(bus).delete_msg(ALARMS, sequence))
            service.change_options("--accept-clock-step")
            service.start()
            store_all(bus, far_ahead("today"))
            eventually(lambda: len(bodies(bus, "ALARM_DIGESTS")) == 4, what="the digest")
            assert abs(seen_at(bodies(bus, "ALARM_DIGESTS")[-1]) - now_s()) < 60
            assert abs(service.metric(AHEAD)) < 60
            assert "the store's arrival clock is set back to ours" in service.log


def test_a_clock_that_drifts_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, boot = DAY_NS * 20_000, 0
    monkeypatch.setattr("time.time_ns", lambda: now)
    monkeypatch.setattr("time.clock_gettime_ns", lambda _clock: boot)
    clock = SteadyClock(accept=False)
    for _ in range(10):  # fast by half, each time less than a day
        now += DAY_NS * 3 // 2
        boot += DAY_NS
        assert (clock.now_ns(), clock.refused_ns) == (now, 0)
    now += 3 * DAY_NS
    assert (clock.now_ns(), clock.refused_ns) == (now - 3 * DAY_NS, 3 * DAY_NS)
    now += 5
    boot += 5
    assert clock.now_ns() == now - 3 * DAY_NS
    assert clock.steps == 1
    # Asleep for a month: the clock that counts since the boot knows it.
    now += 30 * DAY_NS - 3 * DAY_NS
    boot += 30 * DAY_NS
    assert (clock.now_ns(), clock.refused_ns) == (now, 0)
