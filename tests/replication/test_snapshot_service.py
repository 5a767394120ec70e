"""The service makes snapshots, and starts from them where its disk is empty: real processes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from support.command import run_command
from support.feeder import Feeder
from support.group_service import GroupService
from support.jetstream import asking, connected, info_of
from support.judge import ALARMS, Stored, read_stream
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.stream_service import StreamService, assert_worth_judging, settle
from support.wait import eventually

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.object_info import BucketConfig
from alarmdigest.nats.object_store import ObjectStore
from alarmdigest.pipeline.snapshot_maker import in_older_half
from alarmdigest.replication.membership import Beat, Membership
from alarmdigest.replication.snapshot_info import SnapshotInfo
from alarmdigest.replication.snapshots import BUCKET, Snapshots
from alarmdigest.runtime import exit_codes

OFTEN = ("--snapshots", "--snapshot-interval", "1s")
SELDOM = ("--snapshots", "--snapshot-interval", "1h")
SINGLE = f"single:{ALARMS}"
S_NS = 10**9


@contextmanager
def bucket(url: str) -> Iterator[ObjectStore]:
    with connected(url) as connection:
        yield ObjectStore(connection, BucketConfig(BUCKET))


def snapshots_of(url: str, group: str = SINGLE) -> list[SnapshotInfo]:
    """The newest first; none where there is no bucket."""
    with bucket(url) as objects:
        if objects.stream_info(objects.bucket.stream) is None:
            return []
        found = list(Snapshots(objects, group).newest_first())
        return [SnapshotInfo.from_object(one) for one in found]


def wait_for_snapshot(url: str, behind: int, group: str = SINGLE, count: int = 1) -> int:
    """Until there are so many behind this message of the input; the oldest one's message."""

    def found() -> list[int]:
        known = [one.sequence for one in snapshots_of(url, group) if one.sequence > behind]
        return sorted(known) if len(known) >= count else []

    made = eventually(found, timeout=30.0, interval=0.1, what=f"snapshots behind {behind}")
    assert made
    return made[0]


def last_sequence(url: str) -> int:
    with asking(url) as js:
        return info_of(js, ALARMS).last_seq


def remove_input(url: str, through: int) -> list[Stored]:
    """Purge the input stream up to a message; those that are gone."""
    before = [one for one in read_stream(url, ALARMS) if one.sequence <= through]
    with asking(url) as js:
        js.request(f"STREAM.PURGE.{ALARMS}", {"seq": through + 1})
        assert info_of(js, ALARMS).first_seq == through + 1
    return before


class Quiet:
    """Users that the traffic does not know, whose alarms only the state of before can know: one has
    an alarm that it was not told of yet, the other has one that it was told of."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._publish("AlarmStatusChanged", *(self._alarm(user) for user in ("untold", "told")))
        self._publish("SendAlarmDigest", {"UserID": "told"})

    def ask(self) -> None:
        """For a digest with the one alarm, and for none with the other."""
        self._publish("SendAlarmDigest", {"UserID": "untold"}, {"UserID": "told"})

    @staticmethod
    def _alarm(user: str) -> dict[str, str]:
        at = "2026-01-01T00:00:00Z"
        return {"UserID": user, "AlarmID": "a", "Status": "CRITICAL", "ChangedAt": at}

    def _publish(self, subject: str, *bodies: dict[str, str]) -> None:
        with asking(self._url) as js:
            for body in bodies:
                js.publish(subject, json.dumps(body).encode())


def wipe(service: ServiceProcess) -> None:
    shutil.rmtree(service.data_dir)


def restored_from(service: ServiceProcess) -> int:
    """The position of the snapshot that it started from."""
    found = service.wait_for_log(r"restored the state from a snapshot:.* position=(\d+)")
    return int(found[1])


# -- a single instance -----------------------------------------------------------------------------


@pytest.mark.slow
def test_one_whose_disk_is_gone_goes_on_from_its_snapshot() -> None:
    with (
        NatsServer() as server,
        StreamService(server.url, *OFTEN) as service,
        Feeder(server.url, seed=11) as feeder,
    ):
        quiet = Quiet(server.url)
        feeder.wait_for(1500)
        position = wait_for_snapshot(server.url, last_sequence(server.url))
        feeder.wait_for(500)
        service.kill()
        wipe(service)
        feeder.wait_for(200)
        # From its first message it could not do so any more: only the snapshot knows the rest.
        removed = remove_input(server.url, position)
        service.start()
        assert restored_from(service) >= position
        quiet.ask()
        feeder.wait_for(500)
        assert_worth_judging(settle(server.url, service, feeder, removed=removed))


@pytest.mark.slow
def test_a_damaged_one_is_refused_by_name_and_the_next_older_one_taken() -> None:
    with (
        NatsServer() as server,
        StreamService(server.url, *OFTEN) as service,
        Feeder(server.url, seed=12) as feeder,
    ):
        quiet = Quiet(server.url)
        feeder.wait_for(800)
        wait_for_snapshot(server.url, last_sequence(server.url), count=2)
        service.kill()
        wipe(service)
        newest, older = snapshots_of(server.url)
        assert newest.sequence > older.sequence
        with bucket(server.url) as objects:
            found = objects.find(newest.name)
            assert found is not None
            stream, chunks = objects.bucket.stream, objects.bucket.chunks(found.nuid)
            last = objects.find_message(stream, {"last_by_subj": chunks})
            assert last is not None
            objects.request(f"STREAM.MSG.DELETE.{stream}", {"seq": last.seq})
        removed = remove_input(server.url, older.sequence)
        service.start()
        assert restored_from(service) == older.sequence
        assert re.search(
            rf"cannot start from a snapshot: snapshot={re.escape(newest.name)} because=.*chunks",
            service.log,
        )
        quiet.ask()
        feeder.wait_for(500)
        assert_worth_judging(settle(server.url, service, feeder, removed=removed))


@pytest.mark.group
def test_a_full_bucket_stops_nothing() -> None:
    options = (*OFTEN, "--snapshots-max-bytes", "4KiB")
    with (
        NatsServer() as server,
        StreamService(server.url, *options) as service,
        Feeder(server.url, seed=13) as feeder,
    ):
        feeder.wait_for(500)
        service.wait_for_log(r"no snapshot can be made; trying again later:? reason=.*no room")
        failures = service.metric("alarmdigest_snapshot_failures_total")
        assert failures >= 1
        feeder.wait_for(1000)
        eventually(
            lambda: service.metric("alarmdigest_snapshot_failures_total") > failures,
            what="another attempt",
        )
        assert service.http("/readyz")[0] == 200
        assert service.metric("alarmdigest_snapshots_total") == 0
        assert_worth_judging(settle(server.url, service, feeder))
        assert snapshots_of(server.url) == []


@pytest.mark.group
def test_the_first_one_is_made_at_once_and_the_last_one_at_the_end() -> None:
    with (
        NatsServer() as server,
        StreamService(server.url, *SELDOM) as service,
        Feeder(server.url, seed=14) as feeder,
    ):
        feeder.wait_for(200)
        first = wait_for_snapshot(server.url, 0)
        eventually(lambda: service.metric("alarmdigest_snapshots_total") == 1, what="its count")
        assert 0 <= service.metric("alarmdigest_snapshot_age_seconds") < 60
        [found] = snapshots_of(server.url)
        assert service.metric("alarmdigest_snapshot_bytes") == found.size
        assert service.metric("alarmdigest_snapshot_seconds") > 0
        feeder.wait_for(500)
        settle(server.url, service, feeder)
        assert "because=the service stops" in service.log
        assert [one.sequence for one in snapshots_of(server.url)] == [
            last_sequence(server.url),
            first,
        ]
        # The next one has nothing to read, and writes no further one of the same state.
        wipe(service)
        service.start()
        assert restored_from(service) == last_sequence(server.url)
        assert service.stop() == 0
        assert "made a snapshot" not in service.log


@pytest.mark.group
def test_one_of_other_settings_is_refused_and_the_start_goes_on() -> None:
    with (
        NatsServer() as server,
        StreamService(server.url, *SELDOM) as service,
        Feeder(server.url, seed=15) as feeder,
    ):
        feeder.wait_for(300)
        wait_for_snapshot(server.url, 0)
        feeder.finish()
        assert service.stop() == 0
        wipe(service)
        service.change(*SELDOM, "--publish-empty")
        service.start()
        assert "it was made with other settings: publish_empty 0, not 1" in service.log
        assert "there is no snapshot to start from" in service.log
        # What it makes itself is another matter.
        service.wait_for_log("made a snapshot")


def test_without_the_option_nothing_is_made_or_started_from() -> None:
    with NatsServer() as server, StreamService(server.url) as service:
        assert service.stop() == 0
        with bucket(server.url) as objects:
            assert objects.stream_info(objects.bucket.stream) is None
        assert "snapshot" not in service.log


def test_no_bucket_is_made_where_none_may_be_made() -> None:
    with NatsServer() as server, StreamService(server.url) as service:
        assert service.stop() == 0
        service.change(*OFTEN, "--no-create-streams")
        service.start()
        service.wait_for_log(r"we may not create it; this does: nats object add " + BUCKET)
        assert service.http("/readyz")[0] == 200
        assert service.stop() == 0


@pytest.mark.parametrize(
    "options",
    [("--snapshots", "--store", "memory"), ("--snapshots", "--snapshot-interval", "0")],
)
def test_what_contradicts_snapshots_is_exit_code_2(options: tuple[str, ...]) -> None:
    with NatsServer() as server:
        service = ServiceProcess(server.url, mode="stream", options=options).start(ready=False)
        assert service.wait() == exit_codes.USAGE
        assert "--snapshot" in service.log


# -- a group ---------------------------------------------------------------------------------------


@pytest.mark.group
def test_a_wiped_follower_goes_on_from_a_snapshot_and_leads_when_it_must() -> None:
    with (
        NatsServer() as server,
        GroupService([server.url], "--snapshot-interval", "1s", replicas=2) as group,
        Feeder(server.url, seed=21, rate=300) as feeder,
    ):
        quiet = Quiet(server.url)
        feeder.wait_for(800)
        leader = group.leader()
        [follower] = [one for one in group.replicas if one is not leader]
        position = wait_for_snapshot(server.url, last_sequence(server.url), "mail")
        assert "newest snapshot: mail." in run_command("members", "--server", server.url).stdout
        # Who forgets to say whose is told.
        listed = run_command("snapshot", "--list", "--server", server.url)
        assert listed.stdout == "no snapshots of this one; there are some of --group mail\n"
        follower.kill()
        wipe(follower)
        feeder.wait_for(300)
        removed = remove_input(server.url, position)
        follower.start()
        assert restored_from(follower) >= position
        feeder.wait_for(500)
        leader.kill()
        assert group.leader() is follower
        quiet.ask()
        feeder.wait_for(500)
        assert_worth_judging(group.settle(feeder, removed=removed))


@pytest.mark.group
def test_a_newcomer_that_no_snapshot_suits_has_one_made() -> None:
    """The input has lost what comes behind the newest one, which is made seldom."""
    with (
        NatsServer() as server,
        GroupService([server.url], "--snapshot-interval", "1h", replicas=2) as group,
        Feeder(server.url, seed=25, rate=300) as feeder,
    ):
        leader = group.leader()
        [follower] = [one for one in group.replicas if one is not leader]
        eventually(lambda: snapshots_of(server.url, "mail"), timeout=30.0, what="the first one")
        feeder.wait_for(800)
        follower.kill()
        wipe(follower)
        known = max(one.sequence for one in snapshots_of(server.url, "mail"))
        removed = remove_input(server.url, known + 20)
        follower.start()
        follower.wait_for_log("no snapshot suits; another replica makes one for us")
        assert restored_from(follower) > known + 20
        leader.wait_for_log("because=a replica has asked for one")
        feeder.wait_for(300)
        leader.kill()
        assert group.leader() is follower
        feeder.wait_for(300)
        assert_worth_judging(group.settle(feeder, removed=removed))


@pytest.mark.group
def test_a_snapshot_of_before_the_first_message_is_one_to_start_from() -> None:
    """A group's first one is made at once, when there is nothing to be known yet."""
    with (
        NatsServer() as server,
        GroupService([server.url], "--snapshot-interval", "1h", replicas=2) as group,
    ):
        leader = group.leader()
        [follower] = [one for one in group.replicas if one is not leader]
        eventually(
            lambda: [one.sequence for one in snapshots_of(server.url, "mail")] == [0],
            timeout=30.0,
            what="a snapshot of nothing",
        )
        with Feeder(server.url, seed=24) as feeder:
            feeder.wait_for(300)
            follower.kill()
            wipe(follower)
            follower.start()
            assert restored_from(follower) == 0
            feeder.wait_for(300)
            leader.kill()
            assert group.leader() is follower
            feeder.wait_for(300)
            assert_worth_judging(group.settle(feeder), digests=50)


@pytest.mark.group
def test_a_follower_makes_them_and_the_leader_where_there_is_none() -> None:
    with (
        NatsServer() as server,
        GroupService([server.url], "--snapshot-interval", "1s", replicas=2) as group,
        Feeder(server.url, seed=22) as feeder,
    ):
        feeder.wait_for(300)
        leader = group.leader()
        [follower] = [one for one in group.replicas if one is not leader]
        follower.wait_for_log("made a snapshot")
        assert "made a snapshot" not in leader.log
        follower.kill()
        leader.wait_for_log("made a snapshot")
        # The leader's state can be gone, too, as long as somebody finds the snapshots.
        wait_for_snapshot(server.url, last_sequence(server.url), "mail")
        leader.kill()
        for replica in group.replicas:
            wipe(replica)
            replica.start(ready=False)
        for replica in group.replicas:
            restored_from(replica)
            replica.wait_for_log(r"\bready\b")
        feeder.wait_for(300)
        assert_worth_judging(group.settle(feeder), digests=50)


@pytest.mark.group
def test_an_empty_replica_without_a_snapshot_does_not_begin_where_input_is_gone() -> None:
    with (
        NatsServer() as server,
        GroupService([server.url], "--snapshot-interval", "0", replicas=2) as group,
        Feeder(server.url, seed=23) as feeder,
    ):
        feeder.wait_for(300)
        leader = group.leader()
        [follower] = [one for one in group.replicas if one is not leader]
        follower.kill()
        wipe(follower)
        removed = remove_input(server.url, 10)
        follower.start(ready=False)
        assert follower.wait() == exit_codes.USAGE
        assert "does not hold everything that the group mail has read" in follower.log
        assert "and there is no snapshot to start from" in follower.log
        assert "alarmdigest backup" in follower.log
        assert snapshots_of(server.url, "mail") == []
        group.settle(feeder, removed=removed)


def heard(name: str, **beat: Any) -> Membership:
    """What a replica knows that has heard one other, and its own beats."""
    known = Membership(name, f"{name}-1", 100)
    for now in range(3):
        number = known.next_number(now)
        known.hear(Beat(name, f"{name}-1", number), now)
    known.hear(replace(Beat("b", "b-1", 1, ready=True), **beat), 3.0)
    known.note_last_election(beat.get("token", 0))
    return known


def test_whose_business_snapshots_are() -> None:
    def business(name: str, own: dict[str, Any], **other: Any) -> bool:
        beat = replace(Beat(name, f"{name}-1", 9, ready=True), **own)
        return heard(name, **other).makes_snapshots(beat)

    assert business("a", {})
    assert not business("c", {})  # b comes first
    assert business("c", {"priority": 200})
    assert business("c", {}, ready=False)
    assert business("c", {}, may_not_lead=True)
    # Who has missed input makes them only where all have.
    assert business("c", {}, missed=True)
    assert not business("a", {"missed": True})
    assert business("a", {"missed": True}, missed=True)
    assert business("c", {}, token=7)  # b leads
    assert not business("a", {"token": 7})  # b is there to do it for the leader
    assert business("a", {"token": 7}, ready=False)
    assert not business("a", {"ready": False})
    assert not business("a", {"may_not_lead": True})
    assert not Membership("a", "a-1", 100).makes_snapshots(Beat("a", "a-1", 1, ready=True))


def test_a_leader_whose_beats_come_fast_takes_others_for_alive() -> None:
    leader = heard("a")
    for count in range(20):
        now = 3.0 + count * 0.05
        number = leader.next_number(now)
        leader.hear(Beat("a", "a-1", number, token=7), now)
    assert leader.rounds > 20
    assert leader.readiest() == "b"
    assert not leader.makes_snapshots(Beat("a", "a-1", 99, token=7, ready=True))


# -- when ------------------------------------------------------------------------------------------


def stream(first: int, last: int, size: int = 0, **config: int) -> StreamInfo:
    messages = last - first + 1
    return StreamInfo(
        ALARMS, "", first, last, None, messages, (), -1, 0, dict(config), None, size=size
    )


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (stream(1, 1000), False),
        (stream(1, 1000, max_msgs=2000), False),
        (stream(1, 1000, max_msgs=1500), True),
        (stream(1, 1000, size=100_000, max_bytes=200_000), False),
        (stream(1, 1000, size=100_000, max_bytes=150_000), True),
        (stream(1, 1000, max_age=25 * S_NS), False),
        (stream(1, 1000, max_age=15 * S_NS), True),
        (stream(100, 300), False),
        (stream(100, 302), True),
        (stream(300, 299), True),  # it holds nothing, and has removed what it needs
    ],
)
def test_it_is_made_before_the_stream_removes_what_it_needs(held: StreamInfo, wanted: bool) -> None:
    """It was read up to message 200, 10 seconds ago; what lies behind that counts."""
    info = SnapshotInfo("mail", ALARMS, 200, 0, 0, {}, 1, 1, 0)
    assert in_older_half(info, held, 10 * S_NS) is wanted
