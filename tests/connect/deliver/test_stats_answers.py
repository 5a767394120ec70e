"""Bridge, scheduler and deliver in the NATS service API, asked by an independent client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from nats.aio.msg import Msg
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.bus import Bus
from support.deliver import DeliverProcess, Digests, routes
from support.faults import patched
from support.nats_server import NatsServer
from support.paths import ROOT
from support.receivers import WebServer
from support.scheduler import SchedulerProcess, schedule
from support.service import ServiceProcess
from support.service_api import ask, the_one
from support.wait import eventually

from alarmdigest import __version__

pytestmark = pytest.mark.deliver

KINDS = ("bridge", "scheduler", "deliver")
# What each is about, and its endpoint.
ABOUT = {
    "bridge": ("events", "AlarmStatusChanged", "alert"),
    "scheduler": ("requests", "SendAlarmDigest", "request"),
    "deliver": ("digests", "AlarmDigest", "digest"),
}


@pytest.fixture
def bus(server: NatsServer) -> Iterator[Bus]:
    with Bus(server.url) as opened:
        yield opened


def process_of(
    kind: str,
    server: NatsServer,
    web: WebServer,
    *,
    options: tuple[str, ...] = (),
    fault: str = "",
    environment: dict[str, str] | None = None,
) -> ServiceProcess:
    servers = () if environment else (server.url,)
    made: ServiceProcess
    if kind == "bridge":
        made = BridgeProcess(*servers, options=options)
    elif kind == "scheduler":
        made = SchedulerProcess(*servers, options=options)
    else:
        made = DeliverProcess(*servers, routes=routes({"web": web.url()}), options=options)
    made._environment = made._environment | (environment or {})
    if fault:
        program = patched(fault)
        made._arguments = [made._arguments[0], *program, *made._arguments[3:]]
    return made


def figures(bus: Bus, kind: str) -> dict[str, Any]:
    """The one endpoint in the answer of the only process of this kind."""
    [endpoint] = the_one(bus, f"$SRV.STATS.alarmdigest-{kind}")["endpoints"]
    return dict(endpoint)


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("kind", KINDS)
def test_each_says_who_and_what_it_is(
    kind: str, server: NatsServer, bus: Bus, web: WebServer
) -> None:
    name, (about, subject, endpoint) = f"alarmdigest-{kind}", ABOUT[kind]
    with process_of(kind, server, web):
        ping = the_one(bus, "$SRV.PING")
        assert ping == {
            "type": "io.nats.micro.v1.ping_response",
            "name": name,
            "id": ping["id"],
            "version": __version__,
            "metadata": {about: subject},
        }
        for verb in ("PING", "INFO", "STATS"):
            for whom in ("", f".{name}", f".{name}.{ping['id']}"):
                answer = the_one(bus, f"$SRV.{verb}{whom}")
                assert (answer["id"], answer["name"]) == (ping["id"], name)
                assert answer["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
        info = the_one(bus, f"$SRV.INFO.{name}")
        assert [(one["name"], one["subject"]) for one in info["endpoints"]] == [(endpoint, subject)]
        assert info["description"]
        for whom in ("other", f"{name}.other", "alarmdigest"):
            assert ask(bus, f"$SRV.PING.{whom}") == []


def test_the_figures_are_those_of_metrics(server: NatsServer, bus: Bus, web: WebServer) -> None:
    with (
        ServiceProcess(server.url, mode="stream"),
        process_of("bridge", server, web) as bridge,
        process_of("scheduler", server, web) as scheduler,
        process_of("deliver", server, web) as deliver,
    ):
        assert isinstance(bridge, BridgeProcess)
        schedule(server.url, "set", "ada", "--within", "0s")
        assert bridge.post("/alertmanager", webhook(alert(user="ada"), alert("B", user="bob")))[0]
        bridge.post("/alertmanager", b"no JSON")
        eventually(lambda: web.of("ada"), what="the message", timeout=20)
        eventually(lambda: figures(bus, "deliver")["data"]["sent"] == 1, what="that it is counted")
        assert figures(bus, "bridge")["data"] == {"published": 2, "rejected": 1, "failed": 0}
        asked = figures(bus, "scheduler")
        # bob has no schedule.
        assert asked["data"] == {"acting": 1, "waiting": 0, "requests": 1, "failed": 0}
        assert (asked["num_requests"], asked["num_errors"]) == (1, 0)
        assert scheduler.metric("alarmdigest_scheduler_requests_total") == 1
        assert figures(bus, "deliver")["data"] == {"acting": 1, "waiting": 0, "sent": 1, "dead": 0}
        assert deliver.metric('alarmdigest_deliver_sent_total{target="web"}') == 1
        for process in (bridge, scheduler, deliver):
            assert process.stop() == 0
        assert [one["name"] for one in ask(bus, "$SRV.PING")] == ["alarmdigest"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_there_again_after_a_cut(kind: str, web: WebServer) -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        Streams(server).close()
        with process_of(kind, server, web) as process:
            first = the_one(bus, "$SRV.PING")["id"]
            server.kill()
            server.start()
            eventually(lambda: bus.client.is_connected, what="our client")
            assert the_one(bus, "$SRV.PING")["id"] == first
            assert process.stop() == 0


BROKEN = """
from alarmdigest.connect.stats_answers import StatsAnswers
def fail(*arguments):
    raise RuntimeError("on purpose")
StatsAnswers._stats = fail
"""
STUCK = """
import time
from alarmdigest.connect.stats_answers import StatsAnswers
StatsAnswers._serve = lambda self, connection: time.sleep(1000)
"""
NO_THREAD = """
import threading
start = threading.Thread.start
def fail(self):
    if self.name == "micro":
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = fail
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (BROKEN, "API has ended; nothing else depends on it"),
        (STUCK, "connected name=alarmdigest-.*-micro"),
        (NO_THREAD, "API cannot be started"),
    ],
    ids=["broken", "stuck", "no-thread"],
)
def test_what_happens_to_it_harms_nothing(
    kind: str, fault: str, said: str, server: NatsServer, streams: Streams, bus: Bus, web: WebServer
) -> None:
    process = process_of(kind, server, web, fault=fault).start()
    try:
        if fault is BROKEN:
            the_one(bus, "$SRV.PING")
            ask(bus, "$SRV.STATS")
        process.wait_for_log(said)
        works(process, streams, web)
        assert process.http("/healthz")[0] == process.http("/readyz")[0] == 200
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 5
    finally:
        process.end()


def works(process: ServiceProcess, streams: Streams, web: WebServer) -> None:
    if isinstance(process, BridgeProcess):
        assert process.post("/alertmanager", webhook(alert(user="ada")))[0] == 200
    elif isinstance(process, DeliverProcess):
        Digests(streams).publish("ada", "disk-7")
        eventually(lambda: web.of("ada"), what="the message", timeout=20)
    else:
        eventually(lambda: process.metric("alarmdigest_scheduler_acting") == 1)


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_turned_off(
    kind: str, server: NatsServer, streams: Streams, bus: Bus, web: WebServer
) -> None:
    with process_of(kind, server, web, options=("--no-service-api",)) as process:
        works(process, streams, web)
        assert ask(bus, "$SRV.PING") == []
        assert "-micro" not in process.log


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("allowed", [True, False], ids=["as-shipped", "before"])
def test_a_server_that_forbids_it_is_no_trouble(kind: str, allowed: bool, web: WebServer) -> None:
    """Permissions as they are shipped, and as they were before there was a service API."""
    permissions = (ROOT / f"deploy/nats-permissions-{kind}.conf").read_text("utf-8")
    if not allowed:
        lines = [line for line in permissions.splitlines() if "$SRV." not in line]
        permissions = "\n".join(line for line in lines if "allow_responses" not in line)
    users = f"""
authorization {{ users: [
  {{ user: s, password: s, {permissions} }}
  {{ user: t, password: t }}
] }}
"""
    with NatsServer(extra=users) as server, ExitStack() as closing:
        streams = Streams(server, url=server.url.replace("//", "//t:t@"))
        closing.callback(streams.close)
        bus = closing.enter_context(Bus(server.url.replace("//", "//t:t@")))
        login = {"NATS_URL": server.url.replace("//", "//s:s@")}
        process = closing.enter_context(process_of(kind, server, web, environment=login))
        if allowed:
            name = f"alarmdigest-{kind}"
            its_id = the_one(bus, "$SRV.PING")["id"]
            for verb in ("PING", "INFO", "STATS"):
                for whom in ("", f".{name}", f".{name}.{its_id}"):
                    assert the_one(bus, f"$SRV.{verb}{whom}")["id"] == its_id
            assert "does not let us" not in process.log
            assert "iolation" not in server.log.replace("AlarmDigestQuery", "")
        else:
            process.wait_for_log("INFO .*does not let us answer the service API")
            assert ask(bus, "$SRV.PING") == []
        works(process, streams, web)
        assert process.http("/readyz")[0] == 200
        assert process.log.count("does not let us") == (not allowed)
        assert "WARNING micro" not in process.log
        assert process.stop() == 0


@pytest.mark.usefixtures("streams")
def test_who_asks_cannot_choose_where_it_publishes(
    server: NatsServer, bus: Bus, web: WebServer
) -> None:
    """Else whoever may ask could write into the bucket of schedules, for instance."""
    found: list[str] = []

    async def keep(message: Msg) -> None:
        found.append(message.subject)

    with process_of("scheduler", server, web):
        the_one(bus, "$SRV.PING")
        for place in ("$KV.ALARM_SCHEDULES.default", "AlarmStatusChanged", "_INBOX.last"):
            bus.run(bus.client.subscribe(place, cb=keep))
            bus.run(bus.client.publish("$SRV.STATS", b"", reply=place))
        eventually(lambda: "_INBOX.last" in found, what="the last answer")
        assert found == ["_INBOX.last"]
