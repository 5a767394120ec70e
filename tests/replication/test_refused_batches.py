"""Batches that their stream does not take whole: what can be stored is, and the rest waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from histories import event_body, request_body
from model import Event, Request, Status
from support.bus import Bus
from support.group_service import GroupService, digests_of, elections_of
from support.judge import DIGESTS
from support.nats_server import NatsServer
from support.streams import update
from support.wait import eventually

from alarmdigest.pipeline.inflight.fenced import BATCH_FROM

pytestmark = pytest.mark.group

USERS = 60
LARGE = [f"large-{number}" for number in range(2)]


def messages(name: str = "small") -> Iterator[tuple[str, bytes]]:
    """All at once, so that the digests go together; some of them are too large."""
    small = [f"{name}-{number}" for number in range(USERS)]
    for user in (*small, *LARGE):
        for index in range(300 if user in LARGE else 1):
            event = Event(user, f"{index}-{'x' * 100}", Status.CRITICAL, index)
            yield "AlarmStatusChanged", event_body(event)
    for users in (small[::2], LARGE, small[1::2]):
        for user in users:
            yield "SendAlarmDigest", request_body(Request(user))


def test_one_that_is_too_large_for_its_stream_holds_up_nobody_else() -> None:
    with (
        NatsServer() as server,
        GroupService([server.url], replicas=2) as group,
        Bus(server.url) as bus,
    ):
        group.leader()
        update(bus, DIGESTS, max_msg_size=17_000)
        before = len(elections_of(server.url))
        bus.publish_all(messages())
        eventually(
            lambda: len(digests_of(server.url)) == USERS, timeout=30.0, what="the small ones"
        )
        # What is left goes together again.
        bus.publish_all(one for one in messages("later") if b"later" in one[1])
        eventually(
            lambda: len(digests_of(server.url)) == 2 * USERS, timeout=30.0, what="later ones"
        )
        together = Counter(
            one.headers.get("Nats-Batch-Id", "") for one in digests_of(server.url)[USERS:]
        )
        del together[""]
        assert max(together.values()) >= BATCH_FROM
        # Each halving of a batch is an election; what waits makes no more of them.
        assert len(elections_of(server.url)) - before <= 20
        update(bus, DIGESTS, max_msg_size=-1)
        eventually(
            lambda: len(digests_of(server.url)) == 2 * USERS + len(LARGE),
            timeout=60.0,
            what="the large ones",
        )
        ids = [one.headers["Nats-Msg-Id"] for one in digests_of(server.url)]
        assert len(set(ids)) == len(ids)


def test_a_server_that_takes_small_batches_only_gets_such() -> None:
    with (
        NatsServer(jetstream_extra="limits { batch { max_msgs: 10 } }") as server,
        GroupService([server.url], replicas=2) as group,
        Bus(server.url) as bus,
    ):
        group.leader()
        bus.publish_all(messages())
        all_of_them = USERS + len(LARGE)
        eventually(
            lambda: len(digests_of(server.url)) == all_of_them, timeout=30.0, what="all digests"
        )
        assert len(elections_of(server.url)) <= 12
