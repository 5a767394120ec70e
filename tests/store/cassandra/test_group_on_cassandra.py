"""A group whose store is Cassandra: the leader writes it, and everybody goes on from it."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
from support.cassandra_node import CassandraNode
from support.feeder import Feeder
from support.group_service import GroupService, longest_wait_s, pause
from support.keyspaces import Keyspace
from support.nats_server import NatsServer
from support.rows import checkpoint, packed, some_rows, unpacked
from support.stream_service import StreamService
from support.wait import eventually

from alarmdigest.runtime import exit_codes
from alarmdigest.store import StoreError
from alarmdigest.store.cassandra.group_store import CassandraGroupStore
from alarmdigest.store.cassandra.reader import CassandraReader

pytestmark = pytest.mark.cassandra


ROWS = some_rows(50)


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def move(replica: StreamService) -> None:
    shutil.rmtree(replica.data_dir, ignore_errors=True)


def stored_position(keyspace: Keyspace) -> int:
    """The last input message that the stored state knows, -1 where there is none."""
    try:
        with CassandraReader(keyspace.target) as reader:
            last = reader.last
    except StoreError:  # not yet
        return -1
    return last.position.sequence if last is not None and last.position is not None else -1


def written_beyond(keyspace: Keyspace, before: int) -> None:
    eventually(
        lambda: stored_position(keyspace) > before, timeout=60, interval=0.2, what="a checkpoint"
    )


def test_whoever_leads_writes_and_everybody_goes_on_from_it(
    server: NatsServer, keyspace: Keyspace, tell: Callable[[str], None]
) -> None:
    dice = random.Random(31)
    with (
        GroupService([server.url], *keyspace.options, replicas=3) as group,
        Feeder(server.url, seed=81, rate=200) as feeder,
    ):
        written_beyond(keyspace, 0)
        for number in range(8):
            before = stored_position(keyspace)
            leader = group.leader()
            other = dice.choice([one for one in group.running if one is not leader])
            for victim in {0: [leader], 1: [other], 2: group.running, 3: [leader]}[number % 4]:
                victim.kill()
                move(victim)
            group.start()
            feeder.wait_for(50)
            written_beyond(keyspace, before)
        longest_wait_s(server.url, "leaders killed, state in Cassandra", tell)
        group.settle(feeder)


def test_a_leader_that_stood_still_writes_nothing_after_the_next_one(
    server: NatsServer, keyspace: Keyspace
) -> None:
    with (
        GroupService([server.url], *keyspace.options, replicas=2) as group,
        Feeder(server.url, seed=82, rate=200) as feeder,
    ):
        written_beyond(keyspace, 0)
        for _ in range(3):
            before = stored_position(keyspace)
            pause(group.leader(), 5)
            written_beyond(keyspace, before)
        # All go on from what is there now.
        for one in group.running:
            one.kill()
        group.start()
        assert all("went on from" in one.log for one in group.replicas)
        group.settle(feeder)


def test_a_leader_that_had_claimed_before_goes_by_its_new_term(keyspace: Keyspace) -> None:
    """Else one that was elected in between, and had not claimed yet, could claim after it."""
    terms: dict[str, int | None] = {"a": 5, "b": None}
    a, b = CassandraGroupStore(keyspace.target), CassandraGroupStore(keyspace.target)
    a.share(lambda: terms["a"])
    b.share(lambda: terms["b"])
    with a, b:
        a.commit_all([packed(ROWS)], checkpoint(len(ROWS), 1))
        terms.update(a=None, b=7)
        a.commit([packed({})], checkpoint(len(ROWS), 2))  # as a follower
        terms.update(a=9)
        assert a.wants_all_rows
        a.commit_all([packed(ROWS)], checkpoint(len(ROWS), 3))
        with pytest.raises(StoreError, match="elected later"):
            b.commit_all([packed({})], checkpoint(0, 3))
        changes = dict.fromkeys(list(ROWS)[:3], b"x")
        a.commit([packed(changes)], checkpoint(len(ROWS), 4))
        terms.update(a=10)  # elected again, by itself: it need not write everything
        assert not a.wants_all_rows
        a.commit([packed(changes)], checkpoint(len(ROWS), 5))
    with CassandraGroupStore(keyspace.target) as third:
        assert dict(unpacked(third.rows())) == ROWS | changes
        assert third.last == checkpoint(len(ROWS), 5)


def test_a_leader_that_is_behind_what_is_stored_does_not_write_over_it(keyspace: Keyspace) -> None:
    a, b = CassandraGroupStore(keyspace.target), CassandraGroupStore(keyspace.target)
    a.share(lambda: 5)
    b.share(lambda: 6)
    with a, b:
        a.commit_all([packed(ROWS)], checkpoint(len(ROWS), 7, arrival_ns=1000))
        b.commit_all([packed({})], checkpoint(0, 6, arrival_ns=1001))
        assert b.wants_all_rows
        assert "further than we are" in b.trouble
        with CassandraGroupStore(keyspace.target) as third:
            assert dict(unpacked(third.rows())) == ROWS
        # The place in the stream decides: --accept-clock-step sets the arrival clock back.
        b.commit_all([packed({})], checkpoint(0, 7, arrival_ns=1))
        assert not b.wants_all_rows
        assert not b.trouble
    with CassandraGroupStore(keyspace.target) as third:
        assert dict(unpacked(third.rows())) == {}
        assert third.last is not None
        assert third.last.number == 8


def test_a_group_while_cassandra_stands_still(
    server: NatsServer, cassandra_node: CassandraNode, keyspace: Keyspace
) -> None:
    """Digests go on, under one leader after the other."""
    options = [*keyspace.options, "--cassandra-timeout", "500ms"]
    with (
        GroupService([server.url], *options, replicas=2) as group,
        Feeder(server.url, seed=83, rate=200) as feeder,
    ):
        written_beyond(keyspace, 0)
        before = stored_position(keyspace)
        cassandra_node.stop_for_a_while()
        try:
            feeder.wait_for(100)
            first = group.leader()
            first.process.send_signal(signal.SIGKILL)
            first.wait()
            eventually(lambda: group.leader() is not first, timeout=20, what="another leader")
            digests = group.leader().metric('alarmdigest_published_total{kind="digest"}')
            eventually(
                lambda: (
                    group.leader().metric('alarmdigest_published_total{kind="digest"}')
                    > digests + 20
                ),
                timeout=30,
                what="digests meanwhile",
            )
        finally:
            cassandra_node.go_on()
        written_beyond(keyspace, before)
        group.start()
        group.settle(feeder)


def test_a_single_instance_does_not_take_the_store_of_a_group(
    server: NatsServer, keyspace: Keyspace
) -> None:
    with (
        GroupService([server.url], *keyspace.options, replicas=2) as group,
        Feeder(server.url, seed=84, rate=100) as feeder,
    ):
        written_beyond(keyspace, 0)
        with NatsServer() as elsewhere:  # on ours the leader's messages are in its way already
            single = StreamService(elsewhere.url, *keyspace.options)
            single.start(ready=False)
            assert single.wait(30) == exit_codes.STORE_UNUSABLE
            assert "belongs to a group: say --group, too" in single.log
        before = stored_position(keyspace)
        feeder.wait_for(50)
        written_beyond(keyspace, before)
        group.settle(feeder)
