"""Objects in a bucket of three replicas: read and written while servers change, stand still or
die."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from support.cluster import Cluster
from support.jetstream import connected
from support.nats_server import NatsServer
from support.wait import eventually

from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.object_info import CHUNK_BYTES, BucketConfig
from alarmdigest.nats.object_store import ObjectStore

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

BUCKET = BucketConfig("B", replicas=3)
CHUNKS = 400


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture(autouse=True)
def settled(cluster: Cluster) -> None:
    cluster.settle()


def chunks(seed: int) -> Iterator[bytes]:
    for number in range(CHUNKS):
        yield hashlib.sha256(f"{seed} {number}".encode()).digest() * (CHUNK_BYTES // 32)


def whole(seed: int) -> bytes:
    return hashlib.sha256(b"".join(chunks(seed))).digest()


def digest_of(pieces: Iterator[bytes]) -> bytes:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.digest()


def followers(cluster: Cluster) -> list[NatsServer]:
    leader = cluster.leader_of(BUCKET.stream)
    return [node for node in cluster.nodes if node is not leader]


def put(cluster: Cluster, name: str, seed: int) -> None:
    with connected(cluster.nodes[0].url) as connection:
        store = ObjectStore(connection, BUCKET)
        store.ensure(create=True)
        store.put(name, chunks(seed))


def test_an_object_is_read_through_changes_of_the_leader(cluster: Cluster) -> None:
    put(cluster, "n", 1)
    for node in cluster.nodes:
        with connected(node.url) as connection:
            pieces, found = ObjectStore(connection, BUCKET).get("n"), hashlib.sha256()
            for number, piece in enumerate(pieces):
                found.update(piece)
                if number % 100 == 50:
                    cluster.ask(f"STREAM.LEADER.STEPDOWN.{BUCKET.stream}")
        assert found.digest() == whole(1)


def test_a_replica_that_was_away_does_not_make_an_object_look_damaged(cluster: Cluster) -> None:
    put(cluster, "first", 2)
    away = followers(cluster)[0]
    away.kill()
    there = next(node for node in cluster.nodes if node is not away)
    with connected(there.url) as connection:
        ObjectStore(connection, BUCKET).put("second", chunks(3))
    away.start()
    # At once: it has yet to catch up.
    with connected(away.url) as connection:
        store = ObjectStore(connection, BUCKET, timeout_s=10.0)
        eventually(lambda: answered(store), timeout=30, what="an answer")
        assert digest_of(store.get("second")) == whole(3)


def answered(store: ObjectStore) -> bool:
    try:
        return store.find("second") is not None
    except NatsError:
        return False


def test_an_object_is_whole_or_not_there_when_the_leader_dies_under_it(cluster: Cluster) -> None:
    put(cluster, "n", 4)
    for seed in (5, 6, 7):
        leader = cluster.leader_of(BUCKET.stream)
        other = followers(cluster)[0]

        def pieces(seed: int = seed, leader: NatsServer = leader) -> Iterator[bytes]:
            for number, piece in enumerate(chunks(seed)):
                yield piece
                if number == CHUNKS // 2:
                    leader.kill()

        with connected(other.url) as connection:
            try:
                ObjectStore(connection, BUCKET).put("n", pieces())
                written = [seed]
            except NatsError:
                written = [seed, 4]
        leader.start()
        cluster.settle()
        with connected(other.url) as connection:
            store = ObjectStore(connection, BUCKET)
            assert digest_of(store.get("n")) in [whole(one) for one in written]
            store.remove_orphans(0)
            names = {BUCKET.chunks(info.nuid) for info in store.objects()}
            assert store._subjects(BUCKET.chunks(">")).keys() == names
            store.put("n", chunks(4))


def test_a_server_that_stands_still_is_waited_for_or_the_object_is_not_there(
    cluster: Cluster,
) -> None:
    put(cluster, "n", 8)
    leader, other = cluster.leader_of(BUCKET.stream), followers(cluster)[0]

    def pieces() -> Iterator[bytes]:
        for number, piece in enumerate(chunks(9)):
            yield piece
            if number == CHUNKS // 2:
                leader.pause()

    with connected(other.url) as connection:
        try:
            ObjectStore(connection, BUCKET).put("n", pieces())
            written = [9]
        except NatsError:
            written = [9, 8]
        finally:
            leader.resume()
    cluster.settle()
    with connected(other.url) as connection:
        assert digest_of(ObjectStore(connection, BUCKET).get("n")) in map(whole, written)
