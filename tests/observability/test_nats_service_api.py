"""The NATS service API, asked by an independent client."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime

import orjson
import pytest
from nats.aio.msg import Msg
from support.bus import Bus
from support.faults import pairs, patched, request
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.service_api import ask, the_one
from support.streams import add, bodies
from support.wait import eventually

from alarmdigest import __version__


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def bus(server: NatsServer) -> Iterator[Bus]:
    with Bus(server.url) as opened:
        yield opened


def test_a_service_in_stream_mode_answers_who_and_what_it_is(server: NatsServer, bus: Bus) -> None:
    with ServiceProcess(server.url, mode="stream"):
        ping = the_one(bus, "$SRV.PING")
        assert ping == {
            "type": "io.nats.micro.v1.ping_response",
            "name": "alarmdigest",
            "id": ping["id"],
            "version": __version__,
            "metadata": {
                "mode": "stream",
                "streams": "ALARMS,ALARM_DIGESTS,ALARM_REJECTED",
                "requests": "SendAlarmDigest",
                "digests": "AlarmDigest",
                "group": "",
            },
        }
        info = the_one(bus, f"$SRV.INFO.alarmdigest.{ping['id']}")
        assert info["type"] == "io.nats.micro.v1.info_response"
        assert info["id"] == ping["id"]
        assert [(one["name"], one["subject"]) for one in info["endpoints"]] == [
            ("event", "AlarmStatusChanged"),
            ("request", "SendAlarmDigest"),
        ]
        for subject in ("PING", "PING.alarmdigest", f"PING.alarmdigest.{ping['id']}"):
            assert the_one(bus, f"$SRV.{subject}")["id"] == ping["id"]
        for subject in ("PING.other", "PING.alarmdigest.other", "NONSENSE"):
            assert ask(bus, f"$SRV.{subject}") == []


def test_its_figures_are_true(server: NatsServer, bus: Bus) -> None:
    with ServiceProcess(server.url) as service:
        before = the_one(bus, "$SRV.STATS.alarmdigest")
        assert before["type"] == "io.nats.micro.v1.stats_response"
        assert datetime.fromisoformat(before["started"].replace("Z", "+00:00")).tzinfo is not None
        for endpoint in before["endpoints"]:
            assert endpoint["num_requests"] == endpoint["num_errors"] == 0
            assert endpoint["average_processing_time"] == 0
            assert endpoint["last_error"] == ""
        started = time.monotonic()
        bus.publish_all(
            [
                *pairs(range(10)),
                ("AlarmStatusChanged", b"{}"),
                ("AlarmStatusChanged", b"{"),
                ("SendAlarmDigest", b"[]"),
            ]
        )
        bus.wait_for_digests(10)
        bus.wait_for_rejected(3)
        event, asked = the_one(bus, "$SRV.STATS.alarmdigest")["endpoints"]
        took_ns = (time.monotonic() - started) * 1e9
        assert (event["num_requests"], event["num_errors"]) == (12, 2)
        assert event["last_error"] == "json"
        assert (asked["num_requests"], asked["num_errors"]) == (11, 1)
        assert asked["last_error"] == "schema"
        seconds = service.metric("alarmdigest_request_seconds_sum")
        assert asked["processing_time"] == pytest.approx(seconds * 1e9, rel=1e-6)
        assert (
            asked["average_processing_time"] == asked["processing_time"] // 10
        )  # of those answered
        assert 0 < event["processing_time"] < took_ns


def test_it_is_there_again_after_a_cut_and_a_question_may_be_long() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service, Bus(server.url) as bus:
        first = the_one(bus, "$SRV.PING")["id"]
        assert [one["id"] for one in ask(bus, "$SRV.PING", b"x" * 500_000)] == [first]
        assert "lost its connection" not in service.log
        assert the_one(bus, "$SRV.PING")["id"] == first
        server.kill()
        server.start()
        eventually(lambda: bus.client.is_connected, what="our client")
        assert the_one(bus, "$SRV.PING")["id"] == first


def test_it_can_be_turned_off(server: NatsServer, bus: Bus) -> None:
    with ServiceProcess(server.url, options=["--no-service-api"]) as service:
        bus.publish_all(pairs([1]))
        bus.wait_for_digests(1)
        assert ask(bus, "$SRV.PING") == []
        assert "alarmdigest-micro" not in service.log


@pytest.mark.parametrize(
    ("modes", "effect", "digests"),
    [
        (("core", "core"), "twice", 2),
        (("stream", "stream"), "once_in_stream", 1),
        (("stream", "core"), "twice", 2),
    ],
)
def test_two_services_on_the_same_subjects_say_both_what_comes_of_it(
    modes: tuple[str, str], effect: str, digests: int
) -> None:
    says = {"twice": "every digest is published twice", "once_in_stream": "from the same stream"}
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, "ALARM_DIGESTS", ["AlarmDigest"])
        with ServiceProcess(server.url, mode=modes[0]) as first:
            name = the_one(bus, "$SRV.PING")["id"]
            assert "another alarmdigest" not in first.log
            with ServiceProcess(server.url, mode=modes[1]) as second:
                found = second.wait_for_log(
                    f"another alarmdigest answers the same .*{says[effect]}.*its_id='{name}'.*"
                    r"our_id=(\w+)"
                )
                first.wait_for_log(f"another alarmdigest .*{says[effect]}.*its_id='{found[1]}'")
                for service in (first, second):
                    for one in says:
                        seen = service.metric(f'alarmdigest_other_instances{{digests="{one}"}}')
                        assert seen == (one == effect)
                # And it is true.
                bus.publish_all(pairs([1]))
                bus.wait_for_digests(2)
                ids = {digest.headers["Nats-Msg-Id"] for digest in bus.digests}
                assert len(ids) == digests
                assert len(bodies(bus, "ALARM_DIGESTS")) == digests


def test_services_on_other_subjects_are_no_concern(server: NatsServer, bus: Bus) -> None:
    apart = ["--request-subject", "Other", "--event-subject", "Others", "--mode", "core"]
    with ServiceProcess(server.url) as one, ServiceProcess(server.url, options=apart) as other:
        eventually(lambda: len(ask(bus, "$SRV.PING")) == 2, what="both")
        # It was asked again after that.
        eventually(lambda: len(ask(bus, "$SRV.PING.alarmdigest")) == 2, what="both")
        for service in (one, other):
            assert "another alarmdigest" not in service.log
            assert service.metric('alarmdigest_other_instances{digests="twice"}') == 0


def test_many_others_are_warned_of_once_a_minute(server: NatsServer, bus: Bus) -> None:
    """Anybody may answer as another service, and as often as they like."""
    answers = 50
    theirs = {"mode": "core", "requests": "SendAlarmDigest", "digests": "AlarmDigest"}

    async def answer(message: Msg) -> None:
        for number in range(answers):
            other = {"id": f"another-{number}", "metadata": theirs}
            await bus.client.publish(message.reply, orjson.dumps(other))

    others = bus.run(bus.client.subscribe("$SRV.PING.alarmdigest", cb=answer))
    bus.flush()
    with ServiceProcess(server.url) as service:
        service.wait_for_log("another alarmdigest answers the same .*; its_id='another-")
        bus.run(others.unsubscribe())
        the_one(bus, "$SRV.PING")  # it has read all answers before this question
        assert service.log.count("another alarmdigest") == 1


def test_who_asks_cannot_choose_where_the_service_publishes(server: NatsServer, bus: Bus) -> None:
    with ServiceProcess(server.url):
        found: list[str] = []

        async def keep(message: Msg) -> None:
            found.append(message.subject)

        the_one(bus, "$SRV.PING")
        forbidden = (
            "$KV.B.key",
            "$JS.API.STREAM.PURGE.OBJ_B",
            "$O.B.x",
            "AlarmDigest",
            "ForgetUser.x",
        )
        places = (*forbidden, "mine", "_INBOX.x")
        kept = [bus.run(bus.client.subscribe(place, cb=keep)) for place in places]
        for place in places:
            for verb in ("PING", "INFO", "STATS"):
                bus.run(bus.client.publish(f"$SRV.{verb}.alarmdigest", b"", reply=place))
        eventually(lambda: found.count("_INBOX.x") == 3, what="those to the inbox, which come last")
        assert set(found) == {"mine", "_INBOX.x"}
        for one in kept:
            bus.run(one.unsubscribe())


BROKEN = """
from alarmdigest.observability.nats_service_api import ServiceApi
def fail(*arguments):
    raise RuntimeError("on purpose")
ServiceApi._answer = fail
"""
STUCK = """
import time
from alarmdigest.observability.nats_service_api import ServiceApi
ServiceApi._serve = lambda self, connection: time.sleep(1000)
"""


@pytest.mark.parametrize("fault", [BROKEN, STUCK], ids=["broken", "stuck"])
def test_what_happens_to_it_holds_up_nothing(server: NatsServer, bus: Bus, fault: str) -> None:
    with ServiceProcess(server.url, program=patched(fault)) as service:
        eventually(lambda: "name=alarmdigest-micro" in service.log, what="its connection")
        bus.flush()
        if fault is BROKEN:
            eventually(
                lambda: ask(bus, "$SRV.PING") or "API has ended" in service.log, what="its end"
            )
            assert "on purpose" in service.log
        bus.publish_all(pairs([1]))
        bus.wait_for_digests(1)
        assert service.http("/healthz") == (200, "ok\n")
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 5


FORBIDDEN = """
authorization {
  users: [
    {user: service, password: pass, permissions: {
      publish: {deny: ["$SRV.>"]}, subscribe: {deny: ["$SRV.>"]}}}
    {user: bus, password: pass}
  ]
}
"""


def test_a_server_that_forbids_it_is_no_trouble() -> None:
    with NatsServer(extra=FORBIDDEN) as server:
        place = server.url.removeprefix("nats://")
        with (
            ServiceProcess(environment={"NATS_URL": f"nats://service:pass@{place}"}) as service,
            Bus(f"nats://bus:pass@{place}") as bus,
        ):
            service.wait_for_log("does not let us answer questions")
            bus.publish_all([*pairs([1]), request("nobody")])
            bus.wait_for_digests(1)
            assert service.http("/readyz") == (200, "ok\n")
            assert "pass@" not in service.log
            assert len(re.findall("does not let us answer", service.log)) == 1
