"""Streams that are edited under a running service: it says so and is not ready, goes on with what
it can, and is ready again when they are mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.bus import Bus
from support.faults import pairs, patched
from support.jetstream import asking, info_of
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.streams import ALARMS, DIGESTS, INPUTS, QUICK, REJECTED, numbers_in, store_all
from support.wait import eventually

LOOKS_OFTEN = """
import alarmdigest.pipeline.stream_watcher as stream_watcher
stream_watcher.LOOK_EVERY_S = 0.1
"""


@contextmanager
def watched(url: str, *options: str) -> Iterator[ServiceProcess]:
    program = patched(LOOKS_OFTEN)
    with ServiceProcess(url, mode="stream", options=[*QUICK, *options], program=program) as service:
        service.wait_for_log("connected name=alarmdigest-streams")
        yield service


def edit(url: str, stream: str, **changes: Any) -> None:
    with asking(url) as js:
        js.request(f"STREAM.UPDATE.{stream}", {**info_of(js, stream).config, **changes})


def wait_for_status(service: ServiceProcess, status: int, words: str = "") -> None:
    def said() -> bool:
        found, text = service.http("/readyz")
        return found == status and words in text

    eventually(said, what=f"{status} with {words!r}", interval=0.05)


EDITS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        ALARMS,
        {"subject_transform": {"src": "AlarmStatusChanged", "dest": "x"}},
        {"subject_transform": None},
        "stream ALARMS has subject_transform AlarmStatusChanged to x",
    ),
    (
        ALARMS,
        {"subjects": ["AlarmStatusChanged", "SendAlarmDigest"]},
        {"subjects": INPUTS},
        "stream ALARMS does not capture AlarmStatusChanged.>, SendAlarmDigest.>",
    ),
    (ALARMS, {"no_ack": True}, {"no_ack": False}, "stream ALARMS has no_ack true"),
    (
        ALARMS,
        {"max_msgs_per_subject": 1},
        {"max_msgs_per_subject": -1},
        "stream ALARMS has max_msgs_per_subject 1",
    ),
    (
        DIGESTS,
        {"max_msg_size": 1000},
        {"max_msg_size": -1},
        "stream ALARM_DIGESTS has max_msg_size 1000",
    ),
    (
        DIGESTS,
        {"republish": {"src": "AlarmDigest", "dest": "SendAlarmDigest.again"}},
        {"republish": None},
        "stream ALARM_DIGESTS has republish to SendAlarmDigest.again",
    ),
    (
        REJECTED,
        {"republish": {"src": "AlarmRejected", "dest": "AlarmStatusChanged"}},
        {"republish": None},
        "stream ALARM_REJECTED has republish to AlarmStatusChanged",
    ),
]


def test_a_stream_that_is_edited_is_told_until_it_is_mended() -> None:
    with NatsServer() as server, watched(server.url) as service, Bus(server.url) as bus:
        for number, (stream, change, back, words) in enumerate(EDITS):
            edit(server.url, stream, **change)
            wait_for_status(service, 503, words)
            assert service.http("/healthz")[0] == 200, "to restart it would not help"
            # Said once, however often it is seen.
            assert service.log.count(words) == 1
            edit(server.url, stream, **back)
            wait_for_status(service, 200)
            store_all(bus, pairs([number]))
        eventually(lambda: sorted(numbers_in(bus)) == list(range(len(EDITS))), what="the digests")
        # For ever: it cannot be mended.
        edit(server.url, REJECTED, sealed=True)
        wait_for_status(service, 503, "stream ALARM_REJECTED has sealed true")
        assert service.stop() == 0


def test_events_are_read_on_and_digests_wait_for_their_stream() -> None:
    """Also over a new connection, which looks at the streams as well."""
    with NatsServer() as server, watched(server.url) as service, Bus(server.url) as bus:
        edit(server.url, ALARMS, no_ack=True, retention="interest")
        wait_for_status(service, 503, "stream ALARMS has retention interest")
        bus.publish_all(pairs(range(5)))
        eventually(lambda: len(numbers_in(bus)) == 5, what="digests of what came meanwhile")
        edit(server.url, ALARMS, no_ack=False, retention="limits")
        edit(server.url, DIGESTS, no_ack=True)
        wait_for_status(service, 503, "stream ALARM_DIGESTS has no_ack true")
        server.stop()
        server.start()
        eventually(lambda: bus.client.is_connected, what="the bus to be connected again")
        store_all(bus, pairs(range(5, 10)))
        wait_for_status(service, 503, "digests cannot be published: stream ALARM_DIGESTS has")
        assert sorted(numbers_in(bus)) == list(range(5))
        edit(server.url, DIGESTS, no_ack=False)
        wait_for_status(service, 200)
        eventually(
            lambda: sorted(numbers_in(bus)) == list(range(10)), what="all digests, each once"
        )


def test_what_is_unwise_is_warned_of_when_it_begins() -> None:
    with NatsServer() as server, watched(server.url) as service:
        edit(server.url, ALARMS, max_msgs=10)
        service.wait_for_log(r"WARNING stream-watcher stream ALARMS has max_msgs 10, so a burst")
        assert service.http("/readyz")[0] == 200
        edit(server.url, ALARMS, max_msgs=-1)
        edit(server.url, ALARMS, max_age=60 * 10**9, duplicate_window=60 * 10**9)
        service.wait_for_log(r"WARNING stream-watcher stream ALARMS has max_age 1m")
        assert service.log.count("max_msgs 10") == 1


def test_what_the_start_has_warned_of_is_not_said_again() -> None:
    with NatsServer() as server:
        with asking(server.url) as js:
            js.create_stream(
                {"name": ALARMS, "subjects": INPUTS, "max_consumers": 1, "max_msgs": 9}
            )
        with watched(server.url) as service:
            wait_for_states(service)
            assert service.log.count("has max_msgs 9") == 1
            # The one consumer that there may be is ours.
            assert "max_consumers" not in service.log


def test_a_stream_that_we_may_not_make_is_missed() -> None:
    with NatsServer() as server:
        with ServiceProcess(server.url, mode="stream") as maker:
            assert maker.stop() == 0
        with watched(server.url, "--no-create-streams") as service, asking(server.url) as js:
            js.request(f"STREAM.DELETE.{REJECTED}")
            wait_for_status(service, 503, "there is no stream ALARM_REJECTED")


def wait_for_states(service: ServiceProcess) -> list[dict[str, Any]]:
    def states() -> list[dict[str, Any]]:
        return list(json.loads(service.http("/status.json")[1])["stream_states"])

    return eventually(states, what="a look at the streams")


@pytest.mark.parametrize("mode", ["stream", "core"])
def test_status_tells_how_many_copies_there_are(mode: str) -> None:
    with NatsServer() as server:
        if mode == "core":
            with ServiceProcess(server.url, mode=mode) as service:
                assert json.loads(service.http("/status.json")[1])["stream_states"] == []
            return
        with watched(server.url) as service:
            states = wait_for_states(service)
            assert [(state["name"], state["replicas"]) for state in states] == [
                (ALARMS, 1),
                (DIGESTS, 1),
                (REJECTED, 1),
            ]
