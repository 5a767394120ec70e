"""The running service on a real server: what it publishes is what the rule says, and all of it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from time import time_ns

import pytest
from histories import START, History, event_body, histories, request_body
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import RETENTION_NS, Digest, Entry, Event, Forget, Message, Model, Request, Status
from support.bus import Bus, Received
from support.core import read_digest
from support.nats_server import NatsServer
from support.raw import frames_of, publish_raw
from support.scale import cases
from support.service import ServiceProcess
from support.wait import eventually

EVENTS, REQUESTS, FORGETS = "AlarmStatusChanged", "SendAlarmDigest", "ForgetUser"
ALWAYS = 10**30  # a skew and a retention that no test outlives
LONG_AGO = START + 100 * RETENTION_NS  # after what a history comes to, before any test runs
FENCE = "the last alarm of its user"

_numbers = itertools.count(1)


@dataclass
class Running:
    """Two services that read the same messages, and what each of them publishes."""

    server: NatsServer
    service: ServiceProcess  # 12 workers
    alone: ServiceProcess  # one worker, which publishes elsewhere
    bus: Bus
    bus_of_alone: Bus


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    elsewhere = ("--digest-subject", "Digests.1", "--rejected-subject", "Rejected.1")
    with (
        NatsServer() as server,
        ServiceProcess(server.url, options=["--workers", "12"]) as service,
        ServiceProcess(server.url, options=["--workers", "1", *elsewhere]) as alone,
        Bus(server.url) as bus,
        Bus(server.url, digests="Digests.1", rejected="Rejected.1") as bus_of_alone,
    ):
        yield Running(server, service, alone, bus, bus_of_alone)
        assert service.stop() == 0
        assert alone.stop() == 0


def by_user(digests: list[Digest]) -> dict[str, list[Digest]]:
    users = defaultdict(list)
    for digest in digests:
        users[digest.user].append(digest)
    return users


def digests_up_to_fences(bus: Bus, start: int, users: set[str]) -> list[Digest]:
    """What came from place ``start`` on, once every user's last digest is among it."""
    found: list[Digest] = []
    fenced: set[str] = set()

    def complete() -> bool:
        for received in bus.digests[start + len(found) :]:
            found.append(read_digest(received.body))
            if any(entry.alarm == FENCE for entry in found[-1].entries):
                fenced.add(found[-1].user)
        return fenced >= users

    eventually(complete, timeout=20, what=f"the last digests of {len(users)} users")
    return found


def subject_of(message: Message, random: Random) -> str:
    base = {Event: EVENTS, Request: REQUESTS, Forget: FORGETS}[type(message)]
    return base + random.choice(["", "", ".7", ".a.b"])


def body_of(message: Message, random: Random) -> bytes:
    user_name, ascii_only = random.choice(["UserID", "UserId"]), random.random() < 0.5
    if isinstance(message, Event):
        return event_body(message, user_name=user_name, ascii_only=ascii_only)
    return request_body(message, user_name=user_name, ascii_only=ascii_only)


def for_users_of_its_own(history: History) -> list[Message]:
    """The messages, of users that nobody else has, with a last digest for each of them.

    Without times that a live clock would clamp: by how much is for it to say.
    """
    users: dict[str, str] = {}
    messages: list[Message] = []
    for message, _arrival in history:
        if message.user not in users:
            users[message.user] = f"{next(_numbers)} {message.user[:200]}"
        if not isinstance(message, Event) or message.changed_at < LONG_AGO:
            messages.append(replace(message, user=users[message.user]))
    for user in users.values():
        messages += [Event(user, FENCE, Status.CRITICAL, START), Request(user)]
    return messages


def interleaved(streams: list[list[Message]], random: Random) -> list[Message]:
    """All messages, each stream's in its order."""
    turns = [number for number, stream in enumerate(streams) for _ in stream]
    random.shuffle(turns)
    sources = [iter(stream) for stream in streams]
    return [next(sources[number]) for number in turns]


@settings(
    max_examples=cases(30, 2_000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(histories(min_size=5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_random_histories_give_the_digests_of_the_model_with_12_workers_and_with_one(
    running: Running, several: list[History], seed: int
) -> None:
    random = Random(seed)
    messages = interleaved([for_users_of_its_own(history) for history in several], random)
    model = Model(skew_ns=ALWAYS, retention_ns=ALWAYS)
    answers = [model.apply(message, START) for message in messages]
    expected = by_user([digest for digest in answers if digest is not None])
    buses = running.bus, running.bus_of_alone
    starts = [len(bus.digests) for bus in buses]
    buses[0].publish_all((subject_of(one, random), body_of(one, random)) for one in messages)
    for bus, start in zip(buses, starts, strict=True):
        assert by_user(digests_up_to_fences(bus, start, set(expected))) == expected


def test_a_request_sees_what_its_publisher_published_before_it(running: Running) -> None:
    """Event and request back to back, on any of the subjects: exactly one digest for each."""
    random = Random(1)
    messages: list[Message] = []
    expected: list[Digest] = []
    users = [f"{next(_numbers)} back to back" for _ in range(3_000)]
    for now, status in enumerate([Status.WARNING, Status.CRITICAL, Status.WARNING]):
        for user in users:
            messages += [Event(user, "a", status, now), Request(user)]
            expected.append(Digest(user, (Entry("a", status, now),)))
    buses = running.bus, running.bus_of_alone
    starts = [len(bus.digests) for bus in buses]
    publish_raw(
        running.server.url,
        frames_of((subject_of(one, random), body_of(one, random)) for one in messages),
    )
    for bus, start in zip(buses, starts, strict=True):
        came = bus.wait_for_digests(start + len(expected))[start:]
        assert by_user([read_digest(one.body) for one in came]) == by_user(expected)


def test_every_digest_has_an_id_of_its_own(running: Running) -> None:
    users = [f"{next(_numbers)} of some id" for _ in range(1_000)]
    buses = running.bus, running.bus_of_alone
    starts = [len(bus.digests) for bus in buses]
    publish_raw(
        running.server.url,
        frames_of(
            pair
            for user in users
            for pair in (
                (EVENTS, event_body(Event(user, "a", Status.WARNING, 1))),
                (REQUESTS, request_body(Request(user))),
            )
        ),
    )
    for bus, start in zip(buses, starts, strict=True):
        bus.wait_for_digests(start + len(users))
    digests = [received for bus in buses for received in bus.digests]
    assert len({one.headers["Nats-Msg-Id"] for one in digests}) == len(digests)


def size_of(received: Received) -> int:
    """What the server counts against max_payload."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in received.headers.items())
    return len(f"NATS/1.0\r\n{lines}\r\n") + len(received.body)


def test_a_digest_that_no_message_can_hold_comes_in_parts(running: Running) -> None:
    count, user = 30_000, f"{next(_numbers)} of many alarms"
    alarms = [(number * 7919 % 1000, f"{number:0>36}") for number in range(count)]
    start = len(running.bus.digests)
    publish_raw(
        running.server.url,
        frames_of(
            [
                (EVENTS, event_body(Event(user, alarm, Status.WARNING, time)))
                for time, alarm in alarms
            ]
            + [(REQUESTS, request_body(Request(user)))]
        ),
    )
    parts = running.bus.digests

    def entries() -> list[tuple[int, str]]:
        digests = [read_digest(received.body) for received in parts[start:]]
        return [(one.changed_at, one.alarm) for digest in digests for one in digest.entries]

    eventually(lambda: len(entries()) >= count, what="all parts")
    assert entries() == sorted(alarms)
    assert all(read_digest(part.body).user == user for part in parts[start:])
    sizes = [size_of(part) for part in parts[start:]]
    most = running.bus.client.max_payload
    assert all(size <= most for size in sizes)
    # Split where it must be and not before.
    assert all(size > most - 1024 for size in sizes[:-1])
    assert len(sizes) == sum(sizes) // most + 1


def test_a_clock_far_ahead_counts_as_one_hour_ahead(running: Running) -> None:
    user = f"{next(_numbers)} ahead"
    clamped = running.service.metric("alarmdigest_clamped_total")
    before = time_ns()
    start = len(running.bus.digests)
    event = Event(user, "a", Status.WARNING, 2**62)
    running.bus.publish_all([(EVENTS, event_body(event)), (REQUESTS, request_body(Request(user)))])
    [digest] = running.bus.wait_for_digests(start + 1)[start:]
    [entry] = read_digest(digest.body).entries
    hour = 3600 * 10**9
    assert before + hour <= entry.changed_at <= time_ns() + hour
    assert running.service.metric("alarmdigest_clamped_total") == clamped + 1


def test_a_burst_from_a_fast_publisher_is_merged_completely() -> None:
    """Half a million events in one write, faster than they can be read."""
    users, alarms, rounds = 1_000, 100, 5
    frames = b"".join(
        frames_of(
            [
                (
                    EVENTS,
                    b'{"AlarmID":"alarm-%d","UserID":"user-%d","Status":"%b",'
                    b'"ChangedAt":"2021-06-07T20:40:%02dZ"}'
                    % (number // users, number % users, status, second),
                )
                for number in range(users * alarms)
            ]
        )
        for second, status in zip(range(rounds), [b"WARNING", b"CRITICAL"] * rounds, strict=False)
    )
    with (
        NatsServer(extra="max_pending: 512MB") as server,
        ServiceProcess(server.url) as service,
        Bus(server.url) as bus,
    ):
        publish_raw(server.url, frames)
        bus.publish_all((REQUESTS, b'{"UserID":"user-%d"}' % number) for number in range(users))
        digests = [read_digest(one.body) for one in bus.wait_for_digests(users, timeout=60)]
        assert {digest.user for digest in digests} == {f"user-{number}" for number in range(users)}
        assert {len(digest.entries) for digest in digests} == {alarms}
        assert service.metric("alarmdigest_book_events_total") == users * alarms * rounds
        assert service.metric("alarmdigest_alarms") == users * alarms
        assert service.metric('alarmdigest_dropped_total{kind="event"}') == 0
        assert service.metric("alarmdigest_listener_connections_lost_total") == 0
        assert service.metric("alarmdigest_backlog_bytes") == 0
        assert service.http("/readyz") == (200, "ok\n")
