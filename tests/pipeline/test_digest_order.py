"""Digests of one user stand in their stream in the order of their requests, whatever it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import orjson
import pytest
from nats.js.errors import NotFoundError
from support.bus import Bus
from support.faults import Message
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.streams import DIGESTS, add, info, js, last_of, stream_service, update
from support.wait import eventually

COUNT = 400
PUBLISHED = 'alarmdigest_published_total{kind="digest"}'


def events_and_requests(count: int, users: int = 1) -> list[Message]:
    """Each request is for an alarm of its own, whose number grows."""
    found: list[Message] = []
    for number in range(count):
        user = f"user-{number % users}"
        event = {
            "UserID": user,
            "AlarmID": f"alarm.{number}",
            "Status": "CRITICAL",
            "ChangedAt": "2026-01-01T00:00:00Z",
        }
        found.append(("AlarmStatusChanged", orjson.dumps(event)))
        found.append(("SendAlarmDigest", orjson.dumps({"UserID": user})))
    return found


def number_of(body: bytes) -> tuple[str, int]:
    digest = orjson.loads(body)
    [alarm] = digest["ActiveAlarms"]
    return digest["UserID"], int(alarm["AlarmID"].rpartition(".")[2])


def take_out(bus: Bus, wanted: int, found: list[tuple[str, int]], seconds: float = 60) -> None:
    """Read the stream from its first message on, and delete each message that was read."""

    def one() -> bool:
        state = info(bus, DIGESTS)
        assert state is not None
        for sequence in range(max(1, state.state.first_seq), state.state.last_seq + 1):
            try:
                body = bus.run(js(bus).get_msg(DIGESTS, sequence)).data or b""
            except NotFoundError:
                continue
            bus.run(js(bus).delete_msg(DIGESTS, sequence))
            if body != b"old":
                found.append(number_of(body))
            return len(found) >= wanted
        return len(found) >= wanted

    eventually(one, timeout=seconds, interval=0.0, what=f"{wanted} digests")


def assert_in_order(found: list[tuple[str, int]], count: int) -> None:
    assert sorted(number for _user, number in found) == list(range(count))
    for user in {user for user, _number in found}:
        numbers = [number for one, number in found if one == user]
        assert numbers == sorted(numbers), f"out of order for {user}: {numbers}"


@pytest.mark.parametrize("users", [1, 7])
def test_room_that_comes_and_goes_in_a_full_stream(users: int) -> None:
    """Old messages go one by one, so that of many digests under way some find room."""
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, DIGESTS, ["AlarmDigest"], max_msgs=50, discard="new")
        for _ in range(50):
            bus.run(js(bus).publish("AlarmDigest", b"old"))
        with stream_service(server.url, "--checkpoint-interval", "1h") as service:
            bus.publish_all(events_and_requests(COUNT, users))
            eventually(
                lambda: "ALARM_DIGESTS refused a message" in service.http("/readyz")[1],
                what="/readyz to say that the stream is full",
            )
            found: list[tuple[str, int]] = []
            take_out(bus, COUNT, found)
            assert_in_order(found, COUNT)
            eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")


def full(bus: Bus) -> None:
    update(bus, DIGESTS, max_msgs=last_of(bus, DIGESTS) + 3)


def too_small(bus: Bus) -> None:
    update(bus, DIGESTS, max_msg_size=64)


def room(bus: Bus) -> None:
    update(bus, DIGESTS, max_msgs=-1, max_msg_size=-1)


@pytest.mark.parametrize("refuse", [full, too_small])
def test_what_is_refused_for_a_while_is_not_overtaken(refuse: Callable[[Bus], None]) -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, DIGESTS, ["AlarmDigest"], discard="new")
        with stream_service(server.url) as service:
            messages = events_and_requests(COUNT, users=3)
            for start in range(0, len(messages), 200):
                refuse(bus)
                bus.publish_all(messages[start : start + 200])
                eventually(
                    lambda: "refused a message" in service.http("/readyz")[1],
                    what="/readyz to say that it refuses",
                )
                room(bus)
                eventually(
                    lambda: service.http("/readyz")[0] == 200, timeout=20, what="ready again"
                )
            eventually(lambda: last_of(bus, DIGESTS) == COUNT, timeout=20, what="all of them")
            found = []
            for sequence in range(1, COUNT + 1):
                found.append(number_of(bus.run(js(bus).get_msg(DIGESTS, sequence)).data or b""))
            assert_in_order(found, COUNT)


def test_a_digest_that_its_stream_never_takes_holds_up_only_its_user() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, DIGESTS, ["AlarmDigest"], max_msg_size=20_000)
        with stream_service(server.url) as service:
            update(bus, DIGESTS, max_msg_size=1000)
            large = {
                "UserID": "large",
                "AlarmID": "x" * 1000,
                "Status": "CRITICAL",
                "ChangedAt": "2026-01-01T00:00:00Z",
            }
            bus.publish_all(
                [
                    ("AlarmStatusChanged", orjson.dumps(large)),
                    ("SendAlarmDigest", orjson.dumps({"UserID": "large"})),
                ]
            )
            eventually(
                lambda: "message size exceeds maximum" in service.http("/readyz")[1],
                what="/readyz to say so",
            )
            for number in range(20):
                bus.publish_all(events_and_requests(20)[2 * number : 2 * number + 2])
                # At once, not when the large one is tried again.
                eventually(lambda: last_of(bus, DIGESTS) == number + 1, timeout=0.9)  # noqa: B023
            assert "message size exceeds maximum" in service.http("/readyz")[1]
            update(bus, DIGESTS, max_msg_size=-1)
            eventually(lambda: last_of(bus, DIGESTS) == 21, timeout=40, what="the large one")


def test_an_answer_that_is_lost_is_missed_also_while_others_come() -> None:
    """As when a cluster has no leader for a moment, and has one again for what comes next."""
    with NatsServer() as server, Proxy(server.port) as proxy, Bus(server.url) as bus:
        add(bus, DIGESTS, ["AlarmDigest"])
        with stream_service(proxy.url) as service:
            proxy.rewrite = (b'"seq":3}', b'"was":3}')
            numbers = itertools.count()

            def is_missed() -> bool:
                # Each of another user, and the next one once this one is stored.
                number = next(numbers)
                bus.publish_all(events_and_requests(number + 1, users=10**6)[2 * number :])
                eventually(lambda: last_of(bus, DIGESTS) == number + 1, timeout=0.9)
                return "some answers do not come" in service.log

            eventually(is_missed, timeout=5, what="the look-up of the third one")
            count = next(numbers)
            assert count > 5
            eventually(lambda: service.metric(PUBLISHED) == count, what="all confirmed")
            assert last_of(bus, DIGESTS) == count, "one was sent again"
