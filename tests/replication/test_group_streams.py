"""Groups and what their streams may be: short-lived ones, and several groups on split subjects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from histories import event_body, request_body
from model import Event, Request, Status
from support.bus import Bus
from support.feeder import Feeder
from support.group_service import GroupService, digests_of, elections_of
from support.jetstream import asking, info_of
from support.judge import ALARMS, DIGESTS, read_stream
from support.nats_server import NatsServer
from support.stream_service import StreamService
from support.wait import eventually

pytestmark = pytest.mark.group


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def test_a_leader_renews_its_message_before_the_stream_removes_it(server: NatsServer) -> None:
    """Without a last leader message every digest would be refused."""
    with (
        GroupService([server.url], "--digests-max-age", "4s", replicas=2) as group,
        Feeder(server.url, seed=61, rate=100) as feeder,
    ):
        leader = group.leader()
        feeder.wait_for(50)
        first = elections_of(server.url)[-1].sequence

        def removed() -> bool:
            with asking(server.url) as js:
                return info_of(js, DIGESTS).first_seq > first

        eventually(removed, timeout=30.0, interval=0.2, what="the end of the first leader message")
        newest = digests_of(server.url)[-1].sequence
        feeder.wait_for(100)
        eventually(lambda: digests_of(server.url)[-1].sequence > newest, what="later digests")
        assert group.leader() is leader
        assert "not elected" not in leader.log
        last = elections_of(server.url)[-1]
        assert json.loads(last.body)["name"] == ("a" if leader is group.replicas[0] else "b")


def test_two_groups_on_split_subjects_know_nothing_of_each_other(server: NatsServer) -> None:
    """Beyond what one stream can capture, users are split over subjects, streams and groups."""
    with ExitStack() as stack:
        for side in ("North", "South"):
            for name in ("a", "b"):
                replica = StreamService(
                    server.url,
                    *("--group", side, "--replica-name", name),
                    *("--event-subject", f"{side}.Changed", "--request-subject", f"{side}.Send"),
                    *("--digest-subject", f"{side}.Digest"),
                    *("--rejected-subject", f"{side}.Rejected"),
                    *("--events-stream", f"{side}_ALARMS", "--digests-stream", f"{side}_DIGESTS"),
                    *("--rejected-stream", f"{side}_REJECTED"),
                )
                stack.enter_context(replica)
        with asking(server.url) as js:
            for side in ("North", "South"):
                for user in range(20):
                    event = {"UserID": f"{side}-{user}", "AlarmID": "a", "Status": "WARNING"}
                    event["ChangedAt"] = "2026-01-01T00:00:00Z"
                    js.publish(f"{side}.Changed", json.dumps(event).encode())
                    js.publish(f"{side}.Send", json.dumps({"UserID": f"{side}-{user}"}).encode())

        def users(side: str) -> set[str]:
            stored = read_stream(server.url, f"{side}_DIGESTS")
            return {
                json.loads(one.body)["UserID"] for one in stored if one.subject == f"{side}.Digest"
            }

        for side in ("North", "South"):
            wanted = {f"{side}-{user}" for user in range(20)}
            eventually(lambda side=side: len(users(side)) >= 20, what=f"the digests of {side}")  # type: ignore[misc]
            assert users(side) == wanted


@pytest.mark.parametrize("by_whom", ["by its operator", "by the service"])
@pytest.mark.parametrize("name", [ALARMS, DIGESTS])
def test_a_stream_that_is_made_anew_while_the_group_runs(name: str, by_whom: str) -> None:
    """All replicas have read as much: they go on alike, and nobody takes anybody for diverged."""
    with (
        NatsServer() as server,
        GroupService([server.url], replicas=3) as group,
        Bus(server.url) as bus,
    ):

        def ask(number: int) -> None:
            """One new alarm, and a request that is answered with it."""
            before = len(digests_of(server.url))
            event = Event(f"u{number % 3}", f"a{number}", Status.CRITICAL, number)
            bus.publish("AlarmStatusChanged", event_body(event))
            bus.publish("SendAlarmDigest", request_body(Request(f"u{number % 3}")))
            eventually(
                lambda: len(digests_of(server.url)) > before, timeout=30.0, what=f"digest {number}"
            )

        for number in range(20):
            ask(number)
        followers = [one for one in group.replicas if one is not group.leader()]
        # Else one has missed what is about to be deleted, and is not as the others any more, or
        # does not know yet that a digest was stored, and publishes it again in the new stream.
        eventually(lambda: all(read(one) == 40 for one in followers), what="all to have read it")
        eventually(lambda: not any(map(in_flight, followers)), what="them to know what is stored")
        with asking(server.url) as js:
            config = info_of(js, name).config
            js.request(f"STREAM.DELETE.{name}", {})
            if by_whom == "by its operator":
                js.create_stream(dict(config))
            if name == ALARMS:  # else what is published now is lost; that of digests can wait
                eventually(lambda: js.stream_info(name) is not None, timeout=30.0, what="it")
        if name == ALARMS:
            eventually(lambda: all_ready(group), timeout=30.0, what="all to be ready")
        for number in range(20, 30):
            ask(number)
        assert len(digests_of(server.url)) == (30 if name == ALARMS else 10)
        eventually(lambda: all_ready(group), timeout=30.0, what="all to be ready")
        assert not any(one.metric("alarmdigest_group_diverged") for one in group.replicas)


def all_ready(group: GroupService) -> bool:
    return all(one.http("/readyz")[0] == 200 for one in group.replicas)


def read(replica: StreamService) -> float:
    """The last message of the input."""
    return replica.metric("alarmdigest_stream_position")


def in_flight(replica: StreamService) -> float:
    """Bytes of what it would publish if it led."""
    return replica.metric("alarmdigest_unconfirmed_bytes")
