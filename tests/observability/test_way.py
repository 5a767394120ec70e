"""Who else is on the way of an alarm, as the service hears it: also from those who lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from nats.aio.msg import Msg
from support.bus import Bus
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.observability.way import (
    ASK_EVERY_S,
    KNOWN_FOR_S,
    MOST_ANSWERS,
    MOST_PROCESSES,
    Way,
)
from alarmdigest.settings import Settings

COUNTERS = {"published": 5, "rejected": 1, "failed": 2}


def answer(data: Any = COUNTERS, **changed: Any) -> dict[str, Any]:
    """Of a bridge, as it would be."""
    return {
        "name": "alarmdigest-bridge",
        "id": "one",
        "metadata": {"events": "AlarmStatusChanged"},
        "endpoints": [{"name": "alert", "data": data}],
        **changed,
    }


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_process_that_answers_no_more_is_forgotten() -> None:
    clock = Clock()
    way = Way(Settings(), clock)
    assert way.look()["bridge"]["processes"] is None
    way.begin()
    assert way.questions(b"x").count(b"PUB $SRV.STATS.alarmdigest-") == 3
    assert way.questions(b"x") == b""
    way.on_answer(orjson.dumps(answer()))
    way.on_answer(orjson.dumps(answer(id="two")))
    assert way.look()["bridge"] == {"processes": 2, "published": 10, "rejected": 2, "failed": 4}
    assert way.look()["deliver"]["processes"] == 0
    for _ in range(3):
        clock.now += ASK_EVERY_S
        assert way.questions(b"x") != b""
        way.on_answer(orjson.dumps(answer(id="two")))
    clock.now += KNOWN_FOR_S - 3 * ASK_EVERY_S
    assert way.look()["bridge"]["processes"] == 1
    # Whom nobody asks, since there is no connection, may run all the same.
    clock.now += KNOWN_FOR_S
    assert way.look()["bridge"]["processes"] is None
    assert way.look()["bridge"]["published"] == 0


def test_what_the_server_refuses_is_not_asked_again_on_this_connection() -> None:
    clock = Clock()
    way = Way(Settings(), clock)
    way.begin()
    way.questions(b"x")
    refused = 'Permissions Violation for Publish to "$SRV.STATS.alarmdigest-%s"'
    assert way.on_refused(refused % "bridge")
    assert not way.on_refused(refused % "other")
    clock.now += ASK_EVERY_S
    assert b"bridge" not in way.questions(b"x")
    found = way.look()
    assert (found["bridge"]["processes"], found["deliver"]["processes"]) == (None, 0)
    way.begin()
    assert b"bridge" in way.questions(b"x")


@pytest.fixture
def way() -> Way:
    way = Way(Settings())
    way.begin()
    way.questions(b"x")
    return way


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"[" * 10_000,
        *map(
            orjson.dumps,
            (
                answer(name=["alarmdigest-bridge"]),
                answer(name="alarmdigest"),
                answer(metadata=None),
                answer(metadata={"events": "Others"}),
                answer(endpoints=[]),
                answer(endpoints={"data": 1}),
                answer(data=[1, 2, 3]),
                answer(data={"published": "<b>5</b>"}),
                answer(data={"published": -1}),
                answer(data={"published": 1.5}),
                answer(data={"published": 2**63}),
                answer(padding="x" * 20_000),
            ),
        ),
        json.dumps(answer(data={"published": 2**70})).encode(),
        json.dumps(answer(data={"published": float("nan")})).encode(),
    ],
)
def test_what_is_no_answer_of_a_process_of_ours_counts_for_nothing(way: Way, body: bytes) -> None:
    way.on_answer(body)
    assert way.look()["bridge"]["processes"] == 0


def test_a_crowd_of_answers_costs_no_more_than_a_few(way: Way) -> None:
    for number in range(MOST_PROCESSES):
        way.on_answer(orjson.dumps(answer({"published": 2**53 - 1}, id=f"{number:070}")))
    assert way.look()["bridge"]["processes"] == 1  # ids are cut
    for number in range(2 * MOST_ANSWERS):
        way.on_answer(orjson.dumps(answer({"published": 2**53 - 1}, id=f"{number}")))
    found = way.look()
    assert found["bridge"]["processes"] == MOST_PROCESSES
    assert orjson.loads(orjson.dumps(found)) == found
    assert len(way._heard["bridge"]) == MOST_PROCESSES
    # All that may be looked at until the next asking has been.
    of_another = answer(
        {"acting": 1}, name="alarmdigest-deliver", metadata={"digests": "AlarmDigest"}
    )
    way.on_answer(orjson.dumps(of_another))
    assert way.look()["deliver"]["processes"] == 0
    way.begin()
    way.questions(b"x")
    way.on_answer(orjson.dumps(of_another))
    assert way.look()["deliver"]["processes"] == 1


def way_of(service: ServiceProcess) -> dict[str, dict[str, int | None]]:
    found: dict[str, dict[str, int | None]] = json.loads(service.http("/status.json")[1])["way"]
    return found


def answer_as(bus: Bus, make: Callable[[], list[bytes]]) -> None:
    async def on_question(message: Msg) -> None:
        for body in make():
            await bus.client.publish(message.reply, body)

    bus.run(bus.client.subscribe("$SRV.STATS.alarmdigest-bridge", cb=on_question))
    bus.flush()


def test_a_service_shows_who_answers_it_whatever_else_they_say() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        lies = [b"nonsense", b"{" * 100_000, b"x" * 500_000]
        lies += [orjson.dumps(answer({"published": 2**53 - 1}, id=str(n))) for n in range(3000)]
        answer_as(bus, lambda: [orjson.dumps(answer(id="honest")), *lies])
        with ServiceProcess(server.url) as service:
            eventually(lambda: way_of(service)["bridge"]["processes"] == MOST_PROCESSES)
            assert way_of(service)["scheduler"] == {
                **{"processes": 0, "acting": 0, "waiting": 0, "requests": 0, "failed": 0}
            }
            assert service.http("/readyz") == (200, "ok\n")
            assert service.stop() == 0


def test_nobody_is_known_where_nobody_may_be_asked() -> None:
    denied = """
authorization { users: [
  {user: service, password: pass, permissions: {publish: {deny: ["$SRV.STATS.>"]}}}
  {user: bus, password: pass}
] }
"""
    with NatsServer(extra=denied) as server:
        place = server.url.removeprefix("nats://")
        with ServiceProcess(environment={"NATS_URL": f"nats://service:pass@{place}"}) as service:
            service.wait_for_log("INFO .*does not let us ask who else is on the way")
            eventually(lambda: server.log.count("Publish Violation") == 3, what="three refusals")
            assert [one["processes"] for one in way_of(service).values()] == [None, None, None]
            assert service.log.count("on the way of alarms") == 1
            assert "WARNING micro" not in service.log


def test_nobody_is_known_to_a_service_that_does_not_ask() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        asked: list[Msg] = []

        async def on_question(message: Msg) -> None:
            asked.append(message)

        bus.run(bus.client.subscribe("$SRV.>", cb=on_question))
        with ServiceProcess(server.url, options=["--no-service-api"]) as service:
            assert [one["processes"] for one in way_of(service).values()] == [None, None, None]
            assert service.stop() == 0
        bus.flush()
        assert asked == []
