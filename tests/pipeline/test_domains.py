"""Other streams that take what we publish: what they hold, or refuse, confirms nothing.

Hub and leaf have a JetStream domain and an ALARM_DIGESTS each; two accounts of one server have
streams that nothing but their account tells apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from nats.js.api import StreamConfig
from support.bus import Bus
from support.faults import event, request
from support.nats_server import NatsServer, free_port
from support.service import ServiceProcess
from support.streams import DIGESTS, QUICK, add, info, js, stream_service, update
from support.wait import eventually

USERS = [f"user-{number}" for number in range(6)]
PUBLISHED = 'alarmdigest_published_total{kind="digest"}'
FOREIGN = "alarmdigest_foreign_answers_total"


@contextmanager
def hub_and_leaf() -> Iterator[tuple[NatsServer, NatsServer]]:
    port = free_port()
    listen = f'leafnodes {{ host: "127.0.0.1", port: {port} }}'
    remote = f'leafnodes {{ remotes [ {{ url: "nats-leaf://127.0.0.1:{port}" }} ] }}'
    with (
        NatsServer(extra=listen, jetstream_extra="domain: hub") as hub,
        NatsServer(extra=remote, jetstream_extra="domain: leaf") as leaf,
    ):
        yield hub, leaf


def held(bus: Bus) -> int:
    found = info(bus, DIGESTS)
    return found.state.messages if found is not None else 0


def wait_for_leaf(hub: Bus, leaf: Bus) -> None:
    """Until what is published at the hub reaches the leaf's stream."""

    def reached() -> bool:
        hub.publish_all([("AlarmDigest", b"probe")])
        return held(leaf) > 0

    eventually(reached, interval=0.05, what="the leaf")
    for bus in (hub, leaf):
        bus.run(js(bus).purge_stream(DIGESTS))


def ask_for_digests(bus: Bus, alarm: str) -> None:
    bus.publish_all([event(user, alarm) for user in USERS] + [request(user) for user in USERS])


REFUSALS = [
    ({"max_msgs": 2}, {"max_msgs": -1}),
    ({"max_bytes": 400}, {"max_bytes": -1}),
    pytest.param({"max_msg_size": 16}, {"max_msg_size": -1}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("at_the_leaf", [False, True], ids=["at the hub", "at the leaf"])
@pytest.mark.parametrize(("refusing", "taking"), REFUSALS, ids=["messages", "bytes", "size"])
def test_what_another_domain_stores_confirms_nothing(
    refusing: dict[str, Any], taking: dict[str, Any], at_the_leaf: bool
) -> None:
    with hub_and_leaf() as (hub, leaf), Bus(hub.url) as at_hub, Bus(leaf.url) as at_leaf:
        add(at_hub, DIGESTS, ["AlarmDigest"], discard="new")
        add(at_leaf, DIGESTS, ["AlarmDigest"])
        wait_for_leaf(at_hub, at_leaf)
        options = ["--js-domain", "hub", "--split-size", "16KiB"]
        with stream_service(leaf.url if at_the_leaf else hub.url, *options) as service:
            update(at_hub, DIGESTS, **refusing)
            ask_for_digests(at_hub, "a")
            eventually(
                lambda: "ALARM_DIGESTS refused a message" in service.http("/readyz")[1],
                what="/readyz to say so",
            )
            eventually(lambda: service.metric(FOREIGN) > 0, what="the other one's answers")
            kept = held(at_hub)
            assert kept < len(USERS)
            assert service.metric(PUBLISHED) <= kept
            update(at_hub, DIGESTS, **taking)
            eventually(lambda: held(at_hub) == len(USERS), timeout=20, what="all at the hub")
            eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
            assert service.metric(PUBLISHED) == len(USERS)


def test_without_our_stream_the_other_one_confirms_nothing() -> None:
    """Then nobody refuses; there is only the wrong answer."""
    with hub_and_leaf() as (hub, leaf), Bus(hub.url) as at_hub, Bus(leaf.url) as at_leaf:
        add(at_hub, DIGESTS, ["AlarmDigest"])
        add(at_leaf, DIGESTS, ["AlarmDigest"])
        wait_for_leaf(at_hub, at_leaf)
        with stream_service(hub.url) as service:
            assert service.stop() == 0
            service = stream_service(hub.url, "--no-create-streams")
            with service:
                at_hub.run(js(at_hub).delete_stream(DIGESTS))
                ask_for_digests(at_hub, "a")
                eventually(
                    lambda: "there is no stream ALARM_DIGESTS" in service.http("/readyz")[1],
                    what="/readyz to say so",
                )
                assert service.metric(PUBLISHED) == 0
                add(at_hub, DIGESTS, ["AlarmDigest"])
                eventually(lambda: held(at_hub) == len(USERS), timeout=20, what="all at the hub")


@contextmanager
def two_accounts() -> Iterator[NatsServer]:
    """What is published in the first one reaches the second, and so do its answers the first."""
    accounts = (
        "accounts {\n"
        "OURS { jetstream: enabled, users: [ {user: ours, password: s3cret} ],\n"
        "  imports: [ {service: {account: OTHER, subject: AlarmDigest}} ] }\n"
        "OTHER { jetstream: enabled, users: [ {user: other, password: s3cret} ],\n"
        "  exports: [ {service: AlarmDigest, response_type: stream} ] }\n"
        "}"
    )
    with NatsServer(extra=accounts) as server:
        yield server


def url_of(server: NatsServer, user: str) -> str:
    return server.url.replace("nats://", f"nats://{user}:s3cret@")


def wait_for_digests(bus: Bus, wanted: int, service: ServiceProcess) -> None:
    eventually(lambda: held(bus) >= wanted, timeout=30, what=f"{wanted} digests")
    assert held(bus) == wanted, service.log


def test_when_two_streams_of_one_name_answer_only_what_is_read_confirms() -> None:
    with two_accounts() as server:
        ours, other = url_of(server, "ours"), url_of(server, "other")
        with Bus(ours) as bus, Bus(other) as others:
            config = StreamConfig(name=DIGESTS, subjects=["AlarmDigest"])
            others.run(js(others).add_stream(config))
            with ServiceProcess(
                mode="stream", options=QUICK, environment={"NATS_URL": ours}
            ) as service:
                ask_for_digests(bus, "a")
                wait_for_digests(bus, len(USERS), service)
                eventually(
                    lambda: "two streams of the same name answer" in service.log,
                    what="the log to say so",
                )
                assert held(others) > 0
                update(bus, DIGESTS, discard="new", max_msgs=len(USERS))
                ask_for_digests(bus, "b")
                eventually(lambda: held(others) > len(USERS), what="what the other one takes")
                eventually(lambda: service.http("/readyz")[0] == 503, what="not ready")
                assert service.metric(PUBLISHED) <= len(USERS)
                update(bus, DIGESTS, max_msgs=-1)
                wait_for_digests(bus, 2 * len(USERS), service)
                eventually(
                    lambda: service.metric(PUBLISHED) == 2 * len(USERS), timeout=20, what="all"
                )
