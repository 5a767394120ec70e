"""Objects in JetStream's object store: against nats-py, with damage, and when there is no room."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from nats.js.api import ObjectMeta, ObjectMetaOptions
from nats.js.errors import ObjectNotFoundError
from support.bus import Bus
from support.faults import users
from support.jetstream import asking, connected, info_of
from support.nats_server import HOST, NatsServer
from support.paths import ROOT
from support.proxy import Proxy
from support.wait import eventually

from alarmdigest.nats.answers import StoredMessage
from alarmdigest.nats.errors import (
    ConnectionLost,
    JetStreamDenied,
    JetStreamError,
    JetStreamOff,
    NoAnswer,
)
from alarmdigest.nats.object_bucket import (
    BucketConflict,
    BucketFull,
    BucketMissing,
    ObjectDamaged,
    ObjectMissing,
)
from alarmdigest.nats.object_info import CHUNK_BYTES, BucketConfig, ObjectInfo, digest_text
from alarmdigest.nats.object_store import ObjectStore

MIB = 2**20
BUCKET = BucketConfig("B")


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture(scope="module")
def bus(server: NatsServer) -> Iterator[Bus]:
    with Bus(server.url) as opened:
        yield opened


@pytest.fixture
def store(server: NatsServer) -> Iterator[ObjectStore]:
    """An empty bucket."""
    with connected(server.url) as connection:
        opened = ObjectStore(connection, BUCKET, missing_for_s=0.3)
        opened.ensure(create=True)
        opened.request("STREAM.PURGE.OBJ_B")
        yield opened


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def chunk_count(store: ObjectStore) -> int:
    """How many chunks lie in the bucket, of whatever object."""
    return sum(store._subjects("$O.B.C.>").values())


def ensure_and_put(store: ObjectStore) -> None:
    store.ensure(create=True)
    store.put("n", [some_bytes(3 * MIB)])


def fill(store: ObjectStore) -> None:
    """Publish until JetStream refuses, so that not even a marker has room."""
    while True:
        store.publish(store.bucket.chunks("filler"), some_bytes(100))


def remove_chunk(store: ObjectStore, info: ObjectInfo, which: int) -> None:
    """Delete one chunk of an object behind everybody's back."""
    stream = store.bucket.stream
    seq = 0
    for _ in range(which + 1):
        found = store.find_message(
            stream, {"seq": seq + 1, "next_by_subj": store.bucket.chunks(info.nuid)}
        )
        assert found is not None
        seq = found.seq
    store.request(f"STREAM.MSG.DELETE.{stream}", {"seq": seq})


# -- the bucket ------------------------------------------------------------------------------------


def test_a_bucket_is_made_as_other_clients_make_it(store: ObjectStore, bus: Bus) -> None:
    bus.run(bus.client.jetstream().create_object_store("THEIRS"))
    ours, theirs = (info_of(store, name).config for name in ("OBJ_B", "OBJ_THEIRS"))
    differing = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    assert differing <= {"name", "subjects", "description", "max_age"}
    assert ours["subjects"] == [s.replace("THEIRS", "B") for s in theirs["subjects"]]
    assert BucketConfig("THEIRS").conflicts(info_of(store, "OBJ_THEIRS")) == []


def test_a_bucket_has_the_size_that_it_was_made_with(server: NatsServer) -> None:
    with connected(server.url) as connection:
        sized = ObjectStore(connection, BucketConfig("SIZED", max_bytes=5 * MIB))
        assert sized.ensure(create=True).config["max_bytes"] == 5 * MIB
    with connected(server.url) as connection:
        larger = ObjectStore(connection, BucketConfig("SIZED", max_bytes=9 * MIB))
        assert larger.ensure(create=True).config["max_bytes"] == 5 * MIB


def test_a_missing_bucket_is_named_with_the_command_that_makes_it(server: NatsServer) -> None:
    with connected(server.url) as connection:
        missing = ObjectStore(connection, BucketConfig("NONE", max_bytes=1000, replicas=3))
        command = "nats object add NONE --replicas 3 --max-bucket-size 1000"
        with pytest.raises(BucketMissing, match=command):
            missing.ensure(create=False)
        assert missing.stream_info("OBJ_NONE") is None
        for ask in (lambda: missing.find("x"), missing.objects, lambda: list(missing.get("x"))):
            with pytest.raises(BucketMissing, match="there is no bucket NONE"):
                ask()
        with pytest.raises(BucketMissing):
            missing.put("x", [b"x"])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"subjects": ["elsewhere"]}, r"it does not capture \$O\.C\.C\.>; it does not capture"),
        ({"allow_rollup_hdrs": False}, "allow_rollup_hdrs is off"),
        ({"discard": "old"}, "discard must be new"),
        ({"deny_purge": True, "allow_rollup_hdrs": False}, "deny_purge is on"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject is set"),
        ({"retention": "interest"}, "its retention is interest"),
        ({"max_msg_size": 1000}, "1000 bytes only"),
    ],
)
def test_a_stream_of_that_name_that_is_no_bucket_is_refused(
    store: ObjectStore, other: dict[str, Any], said: str
) -> None:
    config = BucketConfig("C")
    store.create_stream(config.config() | other)
    try:
        with (
            connected(store._connection.url) as connection,
            pytest.raises(BucketConflict, match=f"stream OBJ_C is no bucket.*{said}"),
        ):
            ObjectStore(connection, config).ensure(create=True)
    finally:
        store.request("STREAM.DELETE.OBJ_C")


def test_a_stream_with_the_bucket_s_subjects_is_named(store: ObjectStore) -> None:
    store.create_stream({"name": "HOLDER", "subjects": ["$O.D.>"], "storage": "memory"})
    with (
        connected(store._connection.url) as connection,
        pytest.raises(BucketConflict, match=r"stream HOLDER captures \$O\.D\.C\.> or"),
    ):
        ObjectStore(connection, BucketConfig("D")).ensure(create=True)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", "a>", "a="])
def test_a_name_that_is_no_token_is_none_for_a_bucket(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a bucket"):
        BucketConfig(name)


def test_a_server_without_jetstream_says_so() -> None:
    with (
        NatsServer(jetstream=False) as server,
        connected(server.url) as connection,
        pytest.raises(JetStreamOff),
    ):
        ObjectStore(connection, BUCKET).ensure(create=True)


# -- writing and reading ---------------------------------------------------------------------------

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * MIB + 7]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read(store: ObjectStore, bus: Bus, size: int) -> None:
    body = some_bytes(size)
    pieces = [body[at : at + 50_000] for at in range(0, size, 50_000)]
    info = store.put("an object", pieces, metadata={"group": "mail"}, description="of a test")
    assert (info.size, info.chunks) == (size, -(-size // CHUNK_BYTES))
    assert b"".join(store.get("an object")) == body
    assert store.find("an object") == info
    assert abs(info.mtime_ns - time.time_ns()) < 60e9

    theirs = bus.run(bus.client.jetstream().object_store("B"))
    result = bus.run(theirs.get("an object"))
    assert bytes(result.data or b"") == body
    assert (result.info.size, result.info.digest) == (size, info.digest)
    assert result.info.description == "of a test"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk_size", [None, 1000, 700_000])
def test_what_nats_py_wrote_is_read(
    store: ObjectStore, bus: Bus, size: int, chunk_size: int | None
) -> None:
    if chunk_size == 1000:
        size = min(size, 200_000)
    body = some_bytes(size)
    options = ObjectMetaOptions(max_chunk_size=chunk_size) if chunk_size else None
    meta = ObjectMeta(description="theirs", headers={"A": ["b"]}, options=options)
    theirs = bus.run(bus.client.jetstream().object_store("B"))
    bus.run(theirs.put("thé name", body, meta))
    assert b"".join(store.get("thé name")) == body
    [info] = store.objects()
    assert (info.name, info.size, info.description) == ("thé name", size, "theirs")
    assert info.headers == {"A": ["b"]}


def test_the_meta_message_says_what_the_format_wants(store: ObjectStore, bus: Bus) -> None:
    headers = {"Content-Type": ["x/y", "z"]}
    store.put("n", [b"abc"], metadata={"S": "7"}, headers=headers)
    subject = f"$O.B.M.{base64.urlsafe_b64encode(b'n').decode()}"
    message = bus.run(bus.client.jetstream().get_last_msg("OBJ_B", subject))
    assert message.headers == {"Nats-Rollup": "sub"}
    told = json.loads(message.data or b"")
    assert told.pop("nuid")
    assert told == {
        "name": "n",
        "bucket": "B",
        "size": 3,
        "chunks": 1,
        "digest": "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(b"abc").digest()).decode(),
        "mtime": "0001-01-01T00:00:00Z",
        "options": {"max_chunk_size": 131072},
        "metadata": {"S": "7"},
        "headers": headers,
    }


def test_writing_a_name_again_replaces_the_object_and_leaves_nothing_of_it(
    store: ObjectStore, bus: Bus
) -> None:
    store.put("n", [some_bytes(MIB)])
    theirs = bus.run(bus.client.jetstream().object_store("B"))
    bus.run(theirs.put("n", some_bytes(2 * MIB, 2)))
    store.put("n", [some_bytes(3 * MIB, 3)])
    assert b"".join(store.get("n")) == some_bytes(3 * MIB, 3)
    assert [info.size for info in store.objects()] == [3 * MIB]
    assert info_of(store, "OBJ_B").messages == 24 + 1


def test_objects_are_listed_by_prefix_in_the_order_of_writing(store: ObjectStore, bus: Bus) -> None:
    for name in ("a.3", "a.1", "b.1", "a.2", "a.3"):
        store.put(name, [name.encode()])
    assert [info.name for info in store.objects("a.")] == ["a.1", "a.2", "a.3"]
    assert [info.name for info in store.objects()] == ["a.1", "b.1", "a.2", "a.3"]
    theirs = bus.run(bus.client.jetstream().object_store("B"))
    assert {info.name for info in bus.run(theirs.list())} == {"a.1", "a.2", "a.3", "b.1"}


def test_an_object_that_is_written_again_while_we_list_is_listed_once_and_last(
    server: NatsServer, store: ObjectStore
) -> None:
    class Disturbed(ObjectStore):
        looks = 0

        def find_message(self, stream: str, which: dict[str, Any]) -> StoredMessage | None:
            self.looks += 1
            if self.looks == 2:
                store.put("a", [b"new and longer"])
            return super().find_message(stream, which)

    store.put("a", [b"old"])
    store.put("b", [b"x"])
    with connected(server.url) as connection:
        found = Disturbed(connection, BUCKET).objects()
    assert [(info.name, info.size) for info in found] == [("b", 1), ("a", 14)]


def test_over_a_slow_line_nothing_is_asked_for_twice(
    server: NatsServer, store: ObjectStore
) -> None:
    body = some_bytes(40 * CHUNK_BYTES)
    store.put("n", [body])
    with Proxy(server.port) as proxy, connected(proxy.url) as connection:
        slow = ObjectStore(connection, BUCKET)
        [info] = slow.objects()
        proxy.delay(0.04)
        before = slow._requests
        start = time.monotonic()
        assert b"".join(slow.read(info)) == body
        assert time.monotonic() - start > 3, "the line is slow"
        # Asked for once, but for what a busy machine may be late with: not 80 for each chunk twice.
    assert slow._requests - before <= 70


def test_two_objects_whose_chunks_alternate_are_read_apart(store: ObjectStore) -> None:
    with connected(store._connection.url) as second:
        other = ObjectStore(second, BUCKET)

        def alternating() -> Iterator[bytes]:
            # Each chunk of the outer one is followed by another writer's whole object.
            for number in range(40):
                yield some_bytes(CHUNK_BYTES, number)
                other.put(f"small-{number}", [bytes([number]) * 10])

        store.put("outer", alternating())
    expected = b"".join(some_bytes(CHUNK_BYTES, number) for number in range(40))
    assert b"".join(store.get("outer")) == expected
    assert b"".join(store.get("small-7")) == bytes([7]) * 10


def test_a_large_object_needs_little_memory(store: ObjectStore) -> None:
    piece = some_bytes(MIB)
    tracemalloc.start()
    try:
        store.put("large", (piece for _ in range(200)))
        size = sum(map(len, store.get("large")))
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 200 * MIB
    assert peak < 30 * MIB


def test_an_object_that_is_not_there_is_missing(store: ObjectStore) -> None:
    assert store.find("n") is None
    with pytest.raises(ObjectMissing, match="there is no object n in bucket B"):
        store.get("n")
    assert not store.delete("n")


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 20, 39])
def test_an_object_with_a_missing_chunk_is_damaged(store: ObjectStore, which: int) -> None:
    info = store.put("n", [some_bytes(40 * CHUNK_BYTES)])
    remove_chunk(store, info, which)
    with pytest.raises(ObjectDamaged, match="n of bucket B has 39 chunks and should have 40"):
        list(store.get("n"))


def test_an_object_whose_content_is_another_is_damaged(store: ObjectStore) -> None:
    info = store.put("n", [some_bytes(3 * CHUNK_BYTES)])
    remove_chunk(store, info, 2)
    store.publish(store.bucket.chunks(info.nuid), some_bytes(CHUNK_BYTES, 2))
    with pytest.raises(ObjectDamaged, match="its digest differs"):
        list(store.get("n"))
    remove_chunk(store, info, 2)
    store.publish(store.bucket.chunks(info.nuid), b"short")
    with pytest.raises(ObjectDamaged, match="bytes and should have"):
        list(store.get("n"))


def test_an_object_that_is_deleted_or_replaced_while_it_is_read_is_missing(
    store: ObjectStore,
) -> None:
    for change in (lambda: store.delete("n"), lambda: store.put("n", [b"new"])):
        store.put("n", [some_bytes(40 * CHUNK_BYTES)])
        reading = store.get("n")
        next(reading)
        change()
        with pytest.raises(ObjectMissing, match=r"n of bucket B was (deleted|replaced) while"):
            list(reading)


def test_chunks_that_are_removed_while_an_object_is_written_keep_it_from_being_seen(
    store: ObjectStore,
) -> None:
    def sabotaged() -> Iterator[bytes]:
        yield some_bytes(40 * CHUNK_BYTES)
        with asking(store._connection.url) as js:
            js.request("STREAM.PURGE.OBJ_B", {"filter": "$O.B.C.>"})
        yield b"the end"

    with pytest.raises(ObjectDamaged, match="somebody else has removed them"):
        store.put("n", sabotaged())
    assert store.objects() == []
    assert chunk_count(store) == 0


def test_a_meta_message_that_is_none_is_damage_and_hides_no_other(store: ObjectStore) -> None:
    store.put("good", [b"x"])
    for number, body in enumerate((b"", b"[]", b'{"name": "n"}', b'{"name": 1, "bucket": "B"}')):
        store.publish(store.bucket.meta(f"n-{number}"), body)
        with pytest.raises(ObjectDamaged, match="no description of an object"):
            store.find(f"n-{number}")
    assert [info.name for info in store.objects()] == ["good"]
    store.put("n-0", [b"over it"])
    assert b"".join(store.get("n-0")) == b"over it"


@pytest.mark.parametrize("digest", ["", "MD5=abc", "SHA-256=abc", "SHA-256=***"])
def test_without_a_sha_256_nothing_is_read(store: ObjectStore, digest: str) -> None:
    told = ObjectInfo("n", "B", "x", 0, 0, digest)
    store.publish(store.bucket.meta("n"), told.to_json())
    with pytest.raises(ObjectDamaged, match="no SHA-256 digest"):
        list(store.get("n"))


def test_a_digest_is_understood_in_either_alphabet_and_without_padding() -> None:
    value = bytes([0xFB, 0xFF]) * 16
    text = digest_text(value).removeprefix("SHA-256=")
    for other in (text, text.rstrip("="), text.replace("-", "+").replace("_", "/")):
        written = f"SHA-256={other}"
        assert ObjectInfo("n", "B", "x", 0, 0, written).sha256 == value


def test_a_link_is_not_followed(store: ObjectStore) -> None:
    told = ObjectInfo("n", "B", "x", 0, 0, digest_text(bytes(32)), link={"bucket": "C"})
    store.publish(store.bucket.meta("n"), told.to_json())
    with pytest.raises(ObjectDamaged, match="is a link"):
        list(store.get("n"))


# -- no room, no permission, no end ----------------------------------------------------------------


def test_a_full_bucket_is_full_and_keeps_what_it_held(server: NatsServer) -> None:
    with connected(server.url) as connection:
        full = ObjectStore(connection, BucketConfig("FULL", max_bytes=3 * MIB))
        full.ensure(create=True)
        full.put("old", [some_bytes(MIB)])
        before = info_of(full, "OBJ_FULL").messages
        start = time.monotonic()
        for name in ("new", "old"):
            with pytest.raises(BucketFull, match="FULL has no room: maximum bytes exceeded"):
                full.put(name, [some_bytes(4 * MIB)])
            assert info_of(full, "OBJ_FULL").messages == before
        assert time.monotonic() - start < 4, "no answer was waited for that had come"
        assert b"".join(full.get("old")) == some_bytes(MIB)
        full.put("new", [some_bytes(MIB, 2)])
        assert b"".join(full.get("new")) == some_bytes(MIB, 2)


def test_from_a_full_bucket_one_can_delete(server: NatsServer) -> None:
    with connected(server.url) as connection:
        full = ObjectStore(connection, BucketConfig("BRIM", max_bytes=3 * MIB))
        full.ensure(create=True)
        full.put("n", [some_bytes(2 * MIB)])
        with pytest.raises(BucketFull):
            full.put("m", [some_bytes(MIB)])
        with pytest.raises(JetStreamError, match="maximum bytes exceeded"):
            fill(full)
        assert full.delete("n")
        assert full.objects(deleted=True) == []
        full.put("m", [some_bytes(2 * MIB)])


def test_a_bucket_for_which_the_account_has_no_room_is_said_to_have_none() -> None:
    with (
        NatsServer(jetstream_extra="max_file_store: 1MB") as server,
        connected(server.url) as connection,
    ):
        large = ObjectStore(connection, BucketConfig("LARGE", max_bytes=10 * MIB))
        with pytest.raises(BucketFull, match="no room for bucket LARGE: insufficient"):
            large.ensure(create=True)
    with (
        NatsServer(jetstream_extra="max_file_store: 1MB") as server,
        connected(server.url) as connection,
    ):
        small = ObjectStore(connection, BucketConfig("SMALL"))
        small.ensure(create=True)
        with pytest.raises(BucketFull):
            small.put("n", [some_bytes(2 * MIB)])
        assert small._subjects("$O.SMALL.C.>") == {}


@pytest.mark.parametrize(
    ("denied", "said"),
    [
        ("$O.B.C.>", r"Publish to \"\$O\.B\.C\."),
        ("$O.B.M.>", r"Publish to \"\$O\.B\.M\."),
        ("$JS.API.STREAM.CREATE.OBJ_B", r"STREAM\.CREATE\.OBJ_B"),
        ("$JS.API.STREAM.MSG.GET.OBJ_B", r"STREAM\.MSG\.GET\.OBJ_B"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_a_permission_that_is_missing_is_named(denied: str, said: str, shared: bool) -> None:
    with NatsServer(extra=users(f'publish: {{deny: ["{denied}"]}}')) as server:
        with connected(f"nats://service:s3cret@{HOST}:{server.port}") as connection:
            store = ObjectStore(connection, BUCKET, received=b"" if shared else None)
            with pytest.raises(JetStreamDenied, match=said):
                ensure_and_put(store)
        with connected(f"nats://bus:s3cret@{HOST}:{server.port}") as connection:
            clean = ObjectStore(connection, BUCKET)
            clean.ensure(create=True)
            assert clean.objects() == []


def test_when_the_pieces_end_in_an_error_nothing_is_left(store: ObjectStore) -> None:
    def broken() -> Iterator[bytes]:
        yield some_bytes(10 * MIB)
        raise OSError("the disk is gone")

    store.put("n", [b"old"])
    with pytest.raises(OSError, match="the disk is gone"):
        store.put("n", broken())
    assert b"".join(store.get("n")) == b"old"
    assert chunk_count(store) == 1


def test_too_much_metadata_is_refused_and_nothing_is_left(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="the metadata of object n"):
        store.put("n", [b"x"], metadata={"k": "v" * 2 * MIB})
    assert info_of(store, "OBJ_B").messages == 0


def test_a_stream_that_is_gone_while_an_object_is_written_ends_it(store: ObjectStore) -> None:
    def sabotaged() -> Iterator[bytes]:
        yield some_bytes(MIB)
        with asking(store._connection.url) as js:
            js.request("STREAM.DELETE.OBJ_B")
        yield some_bytes(MIB)

    with pytest.raises((JetStreamOff, BucketMissing)):
        store.put("n", sabotaged())


def test_a_connection_that_breaks_while_an_object_is_written_leaves_it_unseen() -> None:
    with NatsServer() as server:

        def sabotaged() -> Iterator[bytes]:
            yield some_bytes(8 * MIB)
            server.kill()
            yield some_bytes(MIB)

        with connected(server.url) as connection:
            store = ObjectStore(connection, BUCKET)
            store.ensure(create=True)
            with pytest.raises((ConnectionLost, NoAnswer)):
                store.put("n", sabotaged())
        server.start()
        with connected(server.url) as connection:
            store = ObjectStore(connection, BUCKET)
            assert store.objects() == []
            assert store.remove_orphans(0) == 1
            assert info_of(store, "OBJ_B").messages == 0


WRITER = """
import sys, time
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.object_info import BucketConfig
from alarmdigest.nats.object_store import ObjectStore
connection = Connection(sys.argv[1], name="writer")
connection.connect()
store = ObjectStore(connection, BucketConfig("B"))
def endless():
    while True:
        yield bytes(100_000)
        time.sleep(0.001)
store.put("n", endless())
"""


def test_a_writer_that_is_killed_half_way_is_never_seen_and_is_cleaned_up_after(
    store: ObjectStore,
) -> None:
    store.put("n", [b"whole"])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, store._connection.url], cwd=ROOT, stderr=subprocess.PIPE
    )
    try:
        eventually(lambda: chunk_count(store) > 50, what="half an object")
        assert store.remove_orphans(60) == 0, "a writer at work keeps its chunks"
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert b"".join(store.get("n")) == b"whole"
    assert len(store.objects()) == 1
    assert store.remove_orphans(60) == 0, "nor does one that may only be slow"
    assert store.remove_orphans(0) == 1
    assert chunk_count(store) == 1
    assert b"".join(store.get("n")) == b"whole"


# -- removing --------------------------------------------------------------------------------------


def test_a_deleted_object_leaves_a_marker_that_others_understand(
    store: ObjectStore, bus: Bus
) -> None:
    store.put("n", [some_bytes(MIB)], metadata={"a": "b"})
    assert store.delete("n")
    assert store.find("n") is None
    assert store.objects() == []
    [marker] = store.objects(deleted=True)
    assert (marker.name, marker.size, marker.chunks, marker.deleted) == ("n", 0, 0, True)
    assert info_of(store, "OBJ_B").messages == 1
    theirs = bus.run(bus.client.jetstream().object_store("B"))
    with pytest.raises(ObjectNotFoundError):
        bus.run(theirs.get("n"))
    assert bus.run(theirs.get_info("n", show_deleted=True)).deleted
    store.put("n", [b"again"])
    assert bytes(bus.run(theirs.get("n")).data or b"") == b"again"


def test_what_nats_py_deleted_is_gone(store: ObjectStore, bus: Bus) -> None:
    store.put("n", [b"x"])
    theirs = bus.run(bus.client.jetstream().object_store("B"))
    bus.run(theirs.delete("n"))
    assert store.find("n") is None
    assert not store.delete("n")


def test_the_newest_of_a_prefix_are_kept_and_nothing_is_left_of_the_others(
    store: ObjectStore,
) -> None:
    for name in ("a.5", "a.1", "b.1", "a.9", "a.2", "a.3"):
        store.put(name, [name.encode()])
    store.delete("a.9")
    assert [info.name for info in store.keep_newest(2, "a.")] == ["a.5", "a.1"]
    assert [info.name for info in store.objects(deleted=True)] == ["b.1", "a.2", "a.3"]
    assert info_of(store, "OBJ_B").messages == 3 * 2
    assert store.keep_newest(2, "a.") == []
    assert [b"".join(store.get(name)) for name in ("a.2", "a.3", "b.1")] == [
        b"a.2",
        b"a.3",
        b"b.1",
    ]
