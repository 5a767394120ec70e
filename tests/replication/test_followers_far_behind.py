"""Replicas whose work is far from what the leader's word says: before it, or beyond it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from histories import event_body, request_body
from model import Event, Request, Status
from support.bus import Bus
from support.faults import gated
from support.feeder import Feeder
from support.group_service import (
    GroupService,
    create_digests,
    digests_of,
    elections_of,
    let_lead,
)
from support.jetstream import asking
from support.judge import DIGESTS
from support.nats_server import NatsServer
from support.service import memory
from support.stream_service import (
    StreamService,
    assert_worth_judging,
    let_time_pass,
)
from support.streams import update
from support.wait import eventually

from alarmdigest.replication.subjects import GROUP_STREAM, beat_subject

pytestmark = pytest.mark.group

MIB = 1024 * 1024
WRITES = 'alarmdigest_checkpoint_stage_seconds_count{stage="write"}'


def word_of(url: str, name: str) -> dict[str, Any]:
    with asking(url) as js:
        beat = js.find_message(GROUP_STREAM, {"last_by_subj": beat_subject("mail", name)})
    assert beat is not None
    word: dict[str, Any] = orjson.loads(beat.payload)["word"]
    return word


def test_one_that_is_elected_behind_the_word_publishes_nothing_again(tmp_path: Path) -> None:
    """It has no state, and has made nothing when it is elected: whatever the word of the one that
    died confirms lies before the place from which it reads the digest stream."""
    gate = tmp_path / "gate"
    with NatsServer() as server:
        create_digests(server.url)
        with (
            GroupService([server.url], replicas=2, programs={"b": gated(gate)}) as group,
            Feeder(server.url, seed=41) as feeder,
        ):
            leader, late = group.replicas
            let_lead(server, group, "a", leader)
            feeder.wait_for(1500)
            eventually(lambda: word_of(server.url, "b")["digests"] > 100, what="it to hear a word")
            leader.kill()
            late.wait_for_log("leading the group")
            before = len(digests_of(server.url))
            gate.touch()
            eventually(lambda: len(digests_of(server.url)) > before, what="more digests")
            feeder.wait_for(300)
            assert_worth_judging(group.settle(feeder))


def test_a_leader_without_words_for_seconds_keeps_no_follower_from_comparing() -> None:
    """The digest stream is full: the input goes on, and no word comes. After that a follower goes
    on as before."""
    with NatsServer() as server:
        create_digests(server.url, discard="new")
        with (
            GroupService([server.url], replicas=2) as group,
            Feeder(server.url, seed=42, rate=300) as feeder,
            Bus(server.url) as bus,
        ):
            leader = group.leader()
            [follower] = (one for one in group.replicas if one is not leader)
            feeder.wait_for(200)
            update(bus, DIGESTS, max_msgs=len(digests_of(server.url)) + 20)
            leader.wait_for_log("is full|maximum messages")
            feeder.wait_for(600)  # two seconds
            assert follower.metric("alarmdigest_unconfirmed_bytes") > 0
            update(bus, DIGESTS, max_msgs=-1)
            feeder.finish()
            eventually(
                lambda: follower.metric("alarmdigest_unconfirmed_bytes") == 0,
                timeout=15.0,
                what="it to have compared itself",
            )
            elections = len(elections_of(server.url))
            let_time_pass(7.0)
            assert len(elections_of(server.url)) == elections
            assert_worth_judging(group.settle(feeder), digests=50)


def test_a_beat_of_whatever_size_silences_nobody() -> None:
    """The group's stream may be older than its limit of a message's size."""
    with NatsServer() as server:
        with asking(server.url) as js:
            js.create_stream(
                {
                    "name": GROUP_STREAM,
                    "subjects": ["AlarmDigestGroup.>"],
                    "storage": "file",
                    "max_msgs_per_subject": 1,
                }
            )
            for name, size in (("x", 900_000), ("y", 300_000), ("z", 262_144)):
                js.publish(beat_subject("mail", name), b"x" * size)
        with GroupService([server.url], replicas=2) as group:
            group.leader().kill()
            with asking(server.url) as js:
                js.publish(beat_subject("mail", "v"), b'{"name":"' + b"v" * 900_000)
            before = len(elections_of(server.url))
            eventually(lambda: len(elections_of(server.url)) > before, what="another leader")


def test_the_groups_stream_takes_no_large_message() -> None:
    with NatsServer() as server, GroupService([server.url], replicas=1):
        with asking(server.url) as js:
            info = js.stream_info(GROUP_STREAM)
        assert info is not None
        assert info.max_msg_size == 64 * 1024


def publish_much(bus: Bus, requests: int) -> None:
    """About half a megabyte for each request: new alarms each time."""
    for number in range(requests):
        alarms = (
            Event("u", f"{number}-{index}-{'x' * 200}", Status.CRITICAL, index)
            for index in range(2000)
        )
        bus.publish_all(("AlarmStatusChanged", event_body(alarm)) for alarm in alarms)
        bus.publish("SendAlarmDigest", request_body(Request("u")))


def test_one_that_diverged_once_does_not_lead_after_a_restart_and_stops_in_time() -> None:
    with NatsServer() as server, GroupService([server.url], replicas=2) as group:
        leader = group.leader()
        [other] = (one for one in group.replicas if one is not leader)
        other.stop()
        (other.data_dir / "diverged").write_text("it has made other digests\n")
        other.start(ready=False)
        other.wait_for_log(r"\bready\b")
        other.wait_for_log("diverged before: it has made other digests; .* folder .* is emptied")
        assert_kept_from_leading(other)
        checkpoint = other.metric(WRITES)
        with Bus(server.url) as bus:
            publish_much(bus, 100)
            bus.flush()
        eventually(lambda: len(digests_of(server.url)) >= 100, timeout=60.0, what="digests")
        # Nobody confirms what it has made: its list is full, and it reads no further.
        eventually(
            lambda: other.metric("alarmdigest_unconfirmed_bytes") > 32 * MIB,
            timeout=60.0,
            what="a full list",
        )
        assert memory(other) < 600 * MIB
        assert other.metric(WRITES) == checkpoint
        leader.kill()
        let_time_pass(4.0)
        assert_kept_from_leading(other)
        assert other.stop() == 0
        shutil.rmtree(other.data_dir)
        other.start(ready=False)
        assert group.leader() is other
        other.wait_for_log(r"\bready\b")
        assert other.http("/readyz")[0] == 200


def test_one_that_has_missed_input_remembers_it() -> None:
    with NatsServer() as server, GroupService([server.url], replicas=2) as group:
        leader = group.leader()
        [other] = (one for one in group.replicas if one is not leader)
        other.stop()
        (other.data_dir / "missed-input").write_text("7 input messages were deleted\n")
        other.start()
        code, told = other.http("/readyz")
        assert code == 503
        assert "7 input messages were deleted: stop this replica, empty its data directory" in told
        # It is better than nobody.
        leader.kill()
        assert group.leader() is other


def assert_kept_from_leading(replica: StreamService) -> None:
    code, told = replica.http("/readyz")
    assert code == 503
    assert "diverged" in told
    assert replica.metric("alarmdigest_leader") == 0
