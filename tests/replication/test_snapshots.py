"""Snapshots of a store: written, found, refused and put back, on a real server."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bus import Bus
from support.jetstream import asking, connected, info_of
from support.nats_server import NatsServer
from support.rows import Rows, checkpoint, packed, some_rows, unpacked

from alarmdigest import __version__
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.object_bucket import BucketFull
from alarmdigest.nats.object_info import CHUNK_BYTES, BucketConfig, ObjectInfo
from alarmdigest.nats.object_store import ObjectStore
from alarmdigest.replication.snapshot_info import SnapshotInfo
from alarmdigest.replication.snapshots import BUCKET, Snapshots
from alarmdigest.runtime.folder_lock import acquire_folder_lock
from alarmdigest.state.position import StreamPosition
from alarmdigest.store import Checkpoint, StoreError, StoreInUse
from alarmdigest.store.backup import back_up, put_back
from alarmdigest.store.lmdb.store import LmdbReader, LmdbStore

SETTINGS = {"clock_skew": 3600, "retention": 604800}
MIB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def js(server: NatsServer) -> Iterator[JetStream]:
    """With a stream ALARMS of 30 messages."""
    with asking(server.url) as opened:
        opened.create_stream({"name": "ALARMS", "subjects": ["a"], "storage": "memory"})
        for _ in range(30):
            opened.publish("a", b"x")
        yield opened
        opened.request("STREAM.DELETE.ALARMS")


@pytest.fixture
def objects(server: NatsServer) -> Iterator[ObjectStore]:
    with connected(server.url) as connection:
        opened = ObjectStore(connection, BucketConfig(BUCKET), missing_for_s=0.2)
        opened.ensure(create=True)
        yield opened
        opened.request(f"STREAM.DELETE.OBJ_{BUCKET}")


@pytest.fixture
def snapshots(objects: ObjectStore) -> Snapshots:
    return Snapshots(objects, "mail")


def at(js: JetStream, sequence: int, blocks: int, **fields: Any) -> Checkpoint:
    """A checkpoint that knows ALARMS up to this message."""
    stored_ns = js.message_time_ns("ALARMS", sequence) or 0
    created = info_of(js, "ALARMS").created
    position = StreamPosition("ALARMS", created, sequence, stored_ns)
    return checkpoint(blocks, sequence, **{"position": position, "settings": SETTINGS} | fields)


def commit(data_dir: Path, last: Checkpoint, rows: Rows) -> None:
    with LmdbStore(data_dir) as store:
        store.commit([packed(rows)], last)


def held(data_dir: Path) -> tuple[Checkpoint | None, dict[bytes, bytes]]:
    with LmdbReader(data_dir) as reader:
        return reader.last, dict(unpacked(reader.rows()))


def names(snapshots: Snapshots) -> list[int]:
    """The sequences of the snapshots that are there, the newest first."""
    return [int(found.metadata["sequence"]) for found in snapshots.newest_first()]


def made(snapshots: Snapshots, js: JetStream, data_dir: Path, *sequences: int) -> None:
    """Snapshots at these messages, of a store that holds one row more each time."""
    for count, sequence in enumerate(sequences, 1):
        rows = some_rows(count, 1000)
        commit(data_dir, at(js, sequence, count), rows)
        snapshots.write(data_dir)


def rewrite(objects: ObjectStore, found: ObjectInfo, **metadata: str) -> None:
    """Change the metadata of an object."""
    changed = replace(found, metadata={**found.metadata, **metadata})
    objects.publish(objects.bucket.meta("other"), b"x")  # not what this is about: must not hinder
    objects._store_meta(changed)


class Ended(Exception):
    pass


def ends_after(beats: int) -> Callable[[], None]:
    left = iter(range(beats))

    def sign_of_life() -> None:
        if next(left, None) is None:
            raise Ended

    return sign_of_life


# -- there and back --------------------------------------------------------------------------------


def test_a_store_comes_back_as_it_was(snapshots: Snapshots, js: JetStream, tmp_path: Path) -> None:
    rows = some_rows(3000, 2000)
    last = at(js, 20, len(rows))
    commit(tmp_path / "a", last, rows)
    written = snapshots.write(tmp_path / "a", about={"history": "h1"})
    assert written is not None
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["state"]

    heard: list[tuple[int, int]] = []
    restored = snapshots.restore(
        tmp_path / "b",
        stream="ALARMS",
        settings=SETTINGS,
        progress=lambda done, size: heard.append((done, size)),
    )
    assert restored == written
    assert held(tmp_path / "b") == (last, rows)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["state"]
    with LmdbStore(tmp_path / "b") as store:
        assert store.last == last
        more = some_rows(10, first=5000)
        store.commit([packed(more)], at(js, 21, len(rows) + 10))
    size = written.size
    assert size > 2 * MIB
    assert heard == [(min(n, size), size) for n in range(CHUNK_BYTES, size + CHUNK_BYTES, 131072)]


def test_what_it_is_stands_in_its_name_and_metadata(
    snapshots: Snapshots, js: JetStream, objects: ObjectStore, tmp_path: Path
) -> None:
    commit(tmp_path, at(js, 7, 5), some_rows(5))
    snapshots.write(tmp_path, about={"history": "h1"})
    [found] = objects.objects()
    assert found.name == "mail.00000000000000000007.2023-11-14T22:13:20.000000007Z"
    timestamp = found.metadata.pop("timestamp")
    assert timestamp.startswith("20")
    assert found.metadata == {
        "history": "h1",
        "group": "mail",
        "stream": "ALARMS",
        "sequence": "7",
        "arrival": "2023-11-14T22:13:20.000000007Z",
        "settings": '{"clock_skew": 3600, "retention": 604800}',
        "checkpoint": "7",
        "blocks": "5",
        "written_at": "2023-11-14T22:13:20.000000007Z",
        "version": __version__,
        "format": "lmdb 1",
    }


def test_a_snapshot_is_made_of_a_store_that_is_written_to(
    snapshots: Snapshots, js: JetStream, tmp_path: Path
) -> None:
    with LmdbStore(tmp_path) as store:
        store.commit([packed(some_rows(5))], at(js, 5, 5))
        written = snapshots.write(tmp_path)
        store.commit([packed(some_rows(5, first=5))], at(js, 6, 10))
    assert written is not None
    assert (written.sequence, written.blocks) == (5, 5)


def test_it_can_be_ended_while_the_store_is_copied_and_while_it_is_sent(
    snapshots: Snapshots, js: JetStream, objects: ObjectStore, tmp_path: Path
) -> None:
    rows = some_rows(5000, 2000)
    commit(tmp_path, at(js, 5, len(rows)), rows)
    for last in (1, 2, 12):
        with pytest.raises(Ended):
            snapshots.write(tmp_path, sign_of_life=ends_after(last))
        assert names(snapshots) == []
        assert info_of(objects, f"OBJ_{BUCKET}").messages == 0
        assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_what_the_copying_process_could_not_do_is_said(
    snapshots: Snapshots, js: JetStream, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"^there is no store in .*: is the data directory right"):
        snapshots.write(tmp_path)
    commit(tmp_path, at(js, 5, 500), some_rows(500))
    with (tmp_path / "state" / "data.mdb").open("r+b") as file:
        file.seek(200_000)
        file.write(bytes(4096))
    with pytest.raises(StoreError, match="is damaged"):
        snapshots.write(tmp_path)
    assert names(snapshots) == []


def test_there_is_none_of_a_store_without_a_checkpoint_and_without_a_place_in_a_stream(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    LmdbStore(tmp_path).close()
    assert snapshots.write(tmp_path) is None
    commit(tmp_path, checkpoint(1, position=None), some_rows(1))
    with pytest.raises(ValueError, match="core mode"):
        snapshots.write(tmp_path)
    assert names(snapshots) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_an_empty_bucket_restores_nothing_and_changes_nothing(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    assert snapshots.restore(tmp_path / "b", stream="ALARMS") is None
    assert not (tmp_path / "b").exists()


# -- how many --------------------------------------------------------------------------------------


def test_the_newest_two_stay_and_those_of_other_groups(
    snapshots: Snapshots, js: JetStream, objects: ObjectStore, tmp_path: Path
) -> None:
    other = Snapshots(objects, "mail2")
    made(other, js, tmp_path / "other", 3)
    made(snapshots, js, tmp_path / "a", 5, 9, 14, 21)
    assert names(snapshots) == [21, 14]
    assert names(other) == [3]


def test_a_damaged_snapshot_does_not_count_as_one_of_the_two(
    snapshots: Snapshots, js: JetStream, objects: ObjectStore, tmp_path: Path
) -> None:
    made(snapshots, js, tmp_path / "a", 5, 9)
    damage(objects, next(snapshots.newest_first()))
    made(snapshots, js, tmp_path / "b", 14)
    assert names(snapshots) == [14, 9, 5]
    made(snapshots, js, tmp_path / "c", 16)
    assert names(snapshots) == [16, 14]


def test_where_there_is_no_room_for_a_third_one_the_oldest_goes_first(
    js: JetStream, server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = some_rows(1000, 1000)
    commit(tmp_path, at(js, 5, len(rows)), rows)
    size = (tmp_path / "state" / "data.mdb").stat().st_size
    with connected(server.url) as connection:
        small = ObjectStore(connection, BucketConfig("SMALL", max_bytes=int(2.5 * size)))
        small.ensure(create=True)
        snapshots = Snapshots(small, "mail")
        for sequence in (6, 7, 8):
            commit(tmp_path, at(js, sequence, len(rows)), {})
            snapshots.write(tmp_path)
        assert names(snapshots) == [8, 7]
        assert "removed an old snapshot: snapshot=mail.00000000000000000006" in caplog.text
        many = some_rows(3000, 1000)
        commit(tmp_path, at(js, 9, len(many)), many)
        with pytest.raises(BucketFull):
            snapshots.write(tmp_path)
        assert names(snapshots) == [8]
        assert snapshots.restore(tmp_path / "b", stream="ALARMS") is not None


# -- which one -------------------------------------------------------------------------------------


def damage(objects: ObjectStore, found: ObjectInfo) -> None:
    """Take its last chunk away."""
    stream = objects.bucket.stream
    last = objects.find_message(stream, {"last_by_subj": objects.bucket.chunks(found.nuid)})
    assert last is not None
    objects.request(f"STREAM.MSG.DELETE.{stream}", {"seq": last.seq})


def lie(objects: ObjectStore, found: ObjectInfo) -> None:
    rewrite(objects, found, blocks="77")


def of_another_group(objects: ObjectStore, found: ObjectInfo) -> None:
    rewrite(objects, found, group="other")


def of_other_settings(objects: ObjectStore, found: ObjectInfo) -> None:
    rewrite(objects, found, settings='{"clock_skew": 1, "retention": 604800}')


def of_another_stream(objects: ObjectStore, found: ObjectInfo) -> None:
    rewrite(objects, found, stream="OTHERS")


def of_a_newer_version(objects: ObjectStore, found: ObjectInfo) -> None:
    rewrite(objects, found, format="lmdb 2")


def of_another_past(objects: ObjectStore, found: ObjectInfo) -> None:
    rewrite(objects, found, timestamp="2026-01-01T00:00:00Z")


def of_the_future(objects: ObjectStore, found: ObjectInfo) -> None:
    rewrite(objects, found, sequence="31")


def unreadable(objects: ObjectStore, found: ObjectInfo) -> None:
    rewrite(objects, found, sequence="many")


def no_snapshot(objects: ObjectStore, found: ObjectInfo) -> None:
    objects._store_meta(replace(found, metadata={}))


def no_store(objects: ObjectStore, found: ObjectInfo) -> None:
    objects.put(found.name, [b"something else"], metadata=found.metadata)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (damage, "chunks and should have"),
        (lie, "holds another checkpoint than it says"),
        (of_another_group, "it is of group other"),
        (of_other_settings, "it was made with other settings: clock_skew 1e-06ms, not 0.0036ms"),
        (of_another_stream, "it was made from stream OTHERS, not from ALARMS"),
        (of_a_newer_version, "its format is lmdb 2"),
        (of_another_past, "message 20 of stream ALARMS is another one than it knows"),
        (of_the_future, "stream ALARMS ends at 30, before its 31"),
        (unreadable, "its metadata cannot be understood"),
        (no_snapshot, "its metadata lack 'settings': it is no snapshot"),
        (no_store, "is damaged"),
    ],
)
def test_one_that_cannot_be_used_is_refused_by_name_and_the_next_older_one_tried(
    snapshots: Snapshots,
    js: JetStream,
    objects: ObjectStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[ObjectStore, ObjectInfo], None],
    why: str,
) -> None:
    made(snapshots, js, tmp_path / "a", 10, 20)
    change(objects, next(snapshots.newest_first()))
    with caplog.at_level(logging.WARNING):
        restored = snapshots.restore(tmp_path / "b", stream="ALARMS", settings=SETTINGS)
    assert restored is not None
    assert restored.sequence == 10
    assert held(tmp_path / "b") == (at(js, 10, 1), some_rows(1, 1000))
    refusals = [line for line in caplog.messages if "cannot start from a snapshot" in line]
    assert len(refusals) == 1
    assert why in refusals[0]
    assert "snapshot=mail.00000000000000000020." in refusals[0]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["state"]


def test_without_one_that_fits_nothing_is_put_there(
    snapshots: Snapshots, js: JetStream, tmp_path: Path
) -> None:
    made(snapshots, js, tmp_path / "a", 10, 20)
    reasons: list[int] = []

    def refuse(info: SnapshotInfo) -> str:
        reasons.append(info.sequence)
        return "of another history"

    assert snapshots.restore(tmp_path / "b", stream="ALARMS", fits=refuse) is None
    assert reasons == [20, 10]
    assert snapshots.restore(tmp_path / "b", stream="ALARMS", settings={}) is None
    assert not (tmp_path / "b").exists()


def test_what_the_input_has_removed_decides_to_the_message(
    snapshots: Snapshots, js: JetStream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(snapshots, js, tmp_path / "a", 10, 20)
    # Message 21 is the next one that it needs.
    js.request("STREAM.PURGE.ALARMS", {"seq": 21})
    restored = snapshots.restore(tmp_path / "b", stream="ALARMS")
    assert restored is not None
    assert restored.sequence == 20
    js.request("STREAM.PURGE.ALARMS", {"seq": 22})
    assert snapshots.restore(tmp_path / "c", stream="ALARMS") is None
    assert "stream ALARMS has removed 1 messages behind its 20" in caplog.text
    assert "stream ALARMS has removed 11 messages behind its 10" in caplog.text


def test_one_that_is_replaced_while_it_is_read_makes_us_look_again(
    snapshots: Snapshots, js: JetStream, server: NatsServer, tmp_path: Path
) -> None:
    rows = some_rows(5000, 1000)
    commit(tmp_path / "a", at(js, 10, len(rows)), rows)
    snapshots.write(tmp_path / "a")
    heard: list[tuple[int, int]] = []

    def write_two_more(done: int, size: int) -> None:
        heard.append((done, size))
        if len(heard) == 1:
            with connected(server.url) as connection:
                others = Snapshots(ObjectStore(connection, BucketConfig(BUCKET)), "mail")
                made(others, js, tmp_path / "c", 20, 21)

    restored = snapshots.restore(tmp_path / "b", stream="ALARMS", progress=write_two_more)
    assert restored is not None
    assert restored.sequence == 21


# -- where -----------------------------------------------------------------------------------------


def test_a_store_that_holds_something_is_not_replaced(
    snapshots: Snapshots, js: JetStream, tmp_path: Path
) -> None:
    made(snapshots, js, tmp_path / "a", 10)
    commit(tmp_path / "b", at(js, 3, 1), some_rows(1, first=99))
    before = held(tmp_path / "b")
    looked_at: list[int] = []

    def look(info: SnapshotInfo) -> str:
        looked_at.append(info.sequence)
        return ""

    with pytest.raises(StoreError, match="holds a store already"):
        snapshots.restore(tmp_path / "b", stream="ALARMS", fits=look)
    assert looked_at == [], "nothing is fetched in vain"
    # Nor one that somebody has filled meanwhile.
    back_up(tmp_path / "a", tmp_path / "copy")
    with pytest.raises(StoreError, match="holds a store already"):
        put_back(tmp_path / "copy", tmp_path / "b")
    assert held(tmp_path / "b") == before


def test_an_empty_store_is_replaced_unless_somebody_has_it(
    snapshots: Snapshots, js: JetStream, tmp_path: Path
) -> None:
    made(snapshots, js, tmp_path / "a", 10)
    LmdbStore(tmp_path / "b").close()
    owner = acquire_folder_lock(tmp_path / "b" / "state")
    with pytest.raises(StoreInUse, match=f"pid {os.getpid()}"):
        snapshots.restore(tmp_path / "b", stream="ALARMS")
    os.close(owner)
    assert snapshots.restore(tmp_path / "b", stream="ALARMS") is not None
    assert held(tmp_path / "b")[0] == at(js, 10, 1)


def test_what_a_killed_one_left_is_cleaned_up(
    snapshots: Snapshots, js: JetStream, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "snapshot" / "state").mkdir(parents=True)
        (tmp_path / folder / "snapshot" / "state" / "data.mdb").write_bytes(b"half")
    made(snapshots, js, tmp_path / "a", 10)
    assert snapshots.restore(tmp_path / "b", stream="ALARMS") is not None
    for folder in ("a", "b"):
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["state"]


def test_a_database_without_its_marker_is_taken_for_whole(
    snapshots: Snapshots, js: JetStream, tmp_path: Path
) -> None:
    """What a process leaves that dies between the two steps of putting it there."""
    made(snapshots, js, tmp_path / "a", 10)
    snapshots.restore(tmp_path / "b", stream="ALARMS")
    (tmp_path / "b" / "state" / "FORMAT").unlink()
    with pytest.raises(StoreError, match="holds a store already"):
        snapshots.restore(tmp_path / "b", stream="ALARMS")
    with LmdbStore(tmp_path / "b") as store:
        assert store.last == at(js, 10, 1)


@pytest.mark.parametrize("group", ["", "a.b", "a b", "a*"])
def test_a_group_has_a_name_that_ends_at_the_first_point(objects: ObjectStore, group: str) -> None:
    with pytest.raises(ValueError, match="no name for a group"):
        Snapshots(objects, group)


def test_nats_py_lists_and_reads_snapshots(
    snapshots: Snapshots, js: JetStream, server: NatsServer, tmp_path: Path
) -> None:
    made(snapshots, js, tmp_path / "a", 10, 20)
    with Bus(server.url) as bus:
        theirs = bus.run(bus.client.jetstream().object_store(BUCKET))
        listed = bus.run(theirs.list())
        newest = max(listed, key=lambda info: info.name)
        body = bytes(bus.run(theirs.get(newest.name)).data or b"")
    copy = tmp_path / "b" / "state"
    shutil.copytree(tmp_path / "a" / "state", copy)
    (copy / "data.mdb").write_bytes(body)
    assert held(tmp_path / "b") == (at(js, 20, 2), some_rows(2, 1000))
