"""Snapshots: copies of the store in JetStream's object store, for replicas whose disk is empty.

A snapshot is the database of one checkpoint, as ``backup`` copies it. Its metadata says what it
holds, so that one that fits is found without reading any.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from alarmdigest.nats.answers import valid_name
from alarmdigest.nats.errors import NoAnswer
from alarmdigest.nats.object_bucket import BucketFull, ObjectDamaged, ObjectMissing
from alarmdigest.nats.object_info import ObjectInfo
from alarmdigest.nats.object_store import ObjectStore
from alarmdigest.replication.snapshot_info import SnapshotInfo
from alarmdigest.runtime.logs import Fields
from alarmdigest.store.backup import back_up_beside, put_back, read_whole, require_empty
from alarmdigest.store.base import Checkpoint, StoreDamaged, StoreTooNew
from alarmdigest.store.lmdb.file import DATA, translating_lmdb_errors
from alarmdigest.store.lmdb.folder import write_marker

log = logging.getLogger(__name__)

BUCKET = "ALARMDIGEST_SNAPSHOTS"
KEPT = 2
# In the data directory, beside the store: gone when we are done, or at the next try.
WORKPLACE = "snapshot"
PIECE_BYTES = 2**20
LISTED_AGAIN = 5


class Snapshots:
    """Those of one group. ``objects`` is the bucket, which must be there.

    The methods raise what ``ObjectStore`` raises, and StoreError for what is wrong with our disk.
    """

    def __init__(self, objects: ObjectStore, group: str) -> None:
        if not valid_name(group):
            raise ValueError(f"{group!r} is no name for a group")
        self._objects = objects
        self._group = group

    # -- writing ---------------------------------------------------------------------------------

    def write(
        self,
        data_dir: Path,
        *,
        about: Mapping[str, str] | None = None,
        sign_of_life: Callable[[], None] = lambda: None,
        workplace: str = WORKPLACE,
    ) -> SnapshotInfo | None:
        """Make a snapshot of the store as of its last checkpoint, and remove all but the newest
        two; None where there is no checkpoint yet. ``about`` is more metadata; ``workplace`` is a
        folder in the data directory that nobody else uses.

        The store may be open, in this process or another, and be written to meanwhile. The copy
        needs as much room in the data directory as the store. ``sign_of_life`` is called again and
        again, and may end it by raising something.

        Where the bucket has no room for a third one, only the newest stays beside the new one.
        Raises BucketFull if that is not enough, and the newest stays; ValueError for a store of
        core mode.
        """
        with _workplace(data_dir, workplace) as place:
            checkpoint = back_up_beside(data_dir, place, sign_of_life=self._waiting(sign_of_life))
            if checkpoint is None:
                return None
            info = SnapshotInfo.of(self._group, checkpoint, about or {})
            self._objects.remove_orphans()
            try:
                written = self._put(info, place / "state" / DATA, sign_of_life)
            except BucketFull as error:
                if not (removed := self._objects.keep_newest(1, f"{self._group}.")):
                    raise
                names = ",".join(one.name for one in removed)
                log.warning("removed an old snapshot:%s", Fields(snapshot=names, because=error))
                written = self._put(info, place / "state" / DATA, sign_of_life)
        self._objects.keep_newest(KEPT, f"{self._group}.")
        return SnapshotInfo.from_object(written)

    def _waiting(self, sign_of_life: Callable[[], None]) -> Callable[[], None]:
        """While the copy is made nothing is asked, and the server must not take us for dead."""

        def both() -> None:
            sign_of_life()
            self._objects.see_to_connection()

        return both

    def _put(self, info: SnapshotInfo, data: Path, sign_of_life: Callable[[], None]) -> ObjectInfo:
        def pieces() -> Iterator[bytes]:
            with data.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    sign_of_life()
                    yield piece

        return self._objects.put(info.name, pieces(), metadata=info.to_metadata())

    # -- finding ---------------------------------------------------------------------------------

    def newest_first(self) -> Iterator[ObjectInfo]:
        """All snapshots of the group, readable or not; the last written first."""
        return reversed(self._objects.objects(f"{self._group}."))

    def newest(
        self,
        *,
        stream: str,
        settings: Mapping[str, int] | None = None,
        fits: Callable[[SnapshotInfo], str] = lambda _info: "",
    ) -> SnapshotInfo | None:
        """The newest whole one that fits, as in ``restore``, without reading it."""
        for found in self.newest_first():
            try:
                info = SnapshotInfo.from_object(found)
            except ValueError:
                continue
            why = self.misfit(info, stream=stream, settings=settings) or fits(info)
            if not why and self._objects.is_whole(found):
                return info
        return None

    def misfit(
        self, info: SnapshotInfo, *, stream: str, settings: Mapping[str, int] | None = None
    ) -> str:
        """Why we cannot go on from this snapshot; empty if we can. ``stream`` is the input,
        ``settings`` are those that decide content; None: any.

        The input must hold, or just have removed, the snapshot's last message, and the same one.
        """
        if info.group != self._group:
            return f"it is of group {info.group}"
        if not info.format_is_known:
            return f"its format is {info.format}, and this version does not know that"
        if settings is not None and (differing := info.differing(settings)):
            return f"it was made with other settings: {differing}"
        if info.stream != stream:
            return f"it was made from stream {info.stream}, not from {stream}"
        there = self._objects.stream_info(stream)
        if there is None:
            return f"there is no stream {stream}"
        if there.last_seq < info.sequence:
            return f"stream {stream} ends at {there.last_seq}, before its {info.sequence}"
        if there.first_seq > info.sequence + 1:
            missing = there.first_seq - info.sequence - 1
            return f"stream {stream} has removed {missing} messages behind its {info.sequence}"
        if info.sequence == 0:
            return ""  # made before the first message
        stored_ns = self._objects.message_time_ns(stream, info.sequence)
        if stored_ns is not None and stored_ns != info.timestamp_ns:
            return f"message {info.sequence} of stream {stream} is another one than it knows"
        return ""

    # -- restoring -------------------------------------------------------------------------------

    def restore(
        self,
        data_dir: Path,
        *,
        stream: str,
        settings: Mapping[str, int] | None = None,
        fits: Callable[[SnapshotInfo], str] = lambda _info: "",
        progress: Callable[[int, int], None] = lambda _done, _size: None,
    ) -> SnapshotInfo | None:
        """Put the newest whole snapshot that fits where the store is to be, which must be empty;
        None if there is none. Those that are refused are logged, each with the reason.

        ``fits`` may refuse more than ``misfit`` does, with a reason. ``progress`` hears how many
        bytes of how many are there.
        """
        require_empty(data_dir)
        refused: set[str] = set()
        # A new one may be made, and the one that we read be removed, again and again.
        for _ in range(LISTED_AGAIN):
            for found in self.newest_first():
                if found.nuid in refused:
                    continue
                try:
                    info = SnapshotInfo.from_object(found)
                    why = self.misfit(info, stream=stream, settings=settings) or fits(info)
                    if not why:
                        with _workplace(data_dir) as place:
                            self._fetch(found, info, place, progress)
                            put_back(place, data_dir)
                        return info
                except ObjectMissing:
                    break
                except (ValueError, ObjectDamaged, StoreDamaged, StoreTooNew) as error:
                    why = str(error)
                refused.add(found.nuid)
                told = Fields(snapshot=found.name, because=why)
                log.warning("cannot start from a snapshot:%s", told)
            else:
                return None
        raise NoAnswer(f"each snapshot of {self._group} was replaced while it was read")

    def _fetch(
        self,
        found: ObjectInfo,
        info: SnapshotInfo,
        place: Path,
        progress: Callable[[int, int], None],
    ) -> None:
        folder, done = place / "state", 0
        with translating_lmdb_errors(folder, "write to"):
            folder.mkdir(mode=0o700)
            with (folder / DATA).open("xb") as file:
                (folder / DATA).chmod(0o600)
                for chunk in self._objects.read(found):
                    file.write(chunk)
                    done += len(chunk)
                    progress(done, found.size)
                file.flush()
                os.fsync(file.fileno())
            write_marker(folder)
        _must_agree(info, read_whole(place))


def _must_agree(info: SnapshotInfo, checkpoint: Checkpoint | None) -> None:
    """Raise ObjectDamaged where a snapshot holds another checkpoint than its metadata say."""
    held = None if checkpoint is None else SnapshotInfo.of(info.group, checkpoint, info.about)
    if held is None or held.told() != info.told():
        raise ObjectDamaged(f"snapshot {info.name} holds another checkpoint than it says")


@contextmanager
def _workplace(data_dir: Path, name: str = WORKPLACE) -> Iterator[Path]:
    """An empty folder on the file system of the store, removed at the end."""
    place = data_dir.resolve() / name
    with translating_lmdb_errors(place, "write to"):
        shutil.rmtree(place, ignore_errors=True)  # of one that died
        place.mkdir(mode=0o700, parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
