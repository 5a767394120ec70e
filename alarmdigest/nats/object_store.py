"""Objects of any size in JetStream's object store: writing, reading and removing them.

An object is a row of chunks, and one meta message that is published behind them: without it nobody
sees the chunks. The `nats object` commands and other clients read what is written here, and the
other way round; the format is ADR-20.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from alarmdigest.nats.answers import status_of
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import (
    JetStreamDenied,
    JetStreamError,
    JetStreamOff,
    NatsError,
    NoAnswer,
)
from alarmdigest.nats.jetstream import NO_LEADER, read_pub_ack
from alarmdigest.nats.object_bucket import NO_ROOM, Bucket, ObjectDamaged, ObjectMissing
from alarmdigest.nats.object_info import CHUNK_BYTES, BucketConfig, ObjectInfo, digest_text
from alarmdigest.nats.object_upload import Upload

ROLLUP = b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n"
# So much is asked for at once while an object is read.
READ_BYTES = 2 * 2**20
# An election of a stream's leader takes seconds.
PATIENCE_S = 20.0
# So long the leader must say that a chunk is missing: a new one may not have read all of its log.
MISSING_FOR_S = 2.0
PAUSE_S = 0.1
# A writer publishes the chunks of an object without pause: these were left behind.
ORPHANED_AFTER_S = 3600.0


class ObjectStore(Bucket):
    """One bucket and its objects, see ``Bucket``."""

    def __init__(
        self,
        connection: Connection,
        bucket: BucketConfig,
        *,
        domain: str = "",
        timeout_s: float = 5.0,
        received: bytes | None = None,
        patience_s: float = PATIENCE_S,
        missing_for_s: float = MISSING_FOR_S,
    ) -> None:
        """``patience_s``: how long a read waits for an answer while the stream has no leader.
        ``missing_for_s``: how long a chunk must be missing before the object counts as damaged."""
        super().__init__(connection, bucket, domain=domain, timeout_s=timeout_s, received=received)
        self._patience_s = patience_s
        self._missing_for_s = missing_for_s

    # -- writing ---------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        chunks: Iterable[bytes],
        *,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, list[str]] | None = None,
        description: str = "",
    ) -> ObjectInfo:
        """Write an object; an older one of the same name is replaced once this one is whole.

        ``chunks`` are of any size; whoever makes them must not use our connection. When anything
        goes wrong, also in ``chunks``, what was written is removed again, if the connection still
        allows it; ``remove_orphans`` removes the rest later. Nothing is tried twice: a chunk
        without an answer may come behind the next ones.

        Raises BucketFull, BucketMissing, and ValueError for too much metadata. After NoAnswer or
        ConnectionLost the object may be there as a whole, or not be there.
        """
        if not name:
            raise ValueError("an object has a name")
        before = self._nuid_of(name)
        nuid = secrets.token_hex(11)
        size = min(CHUNK_BYTES, self._connection.max_payload)
        subject = self.bucket.chunks(nuid)
        publish = partial(self._publish_to, subject)
        upload = Upload(publish, self._receive, self.bucket.stream, subject, self._timeout_s)
        try:
            upload.write(chunks, size)
            if (stored := self._count(subject)) != upload.chunks:
                raise ObjectDamaged(
                    f"{stored} of {upload.chunks} chunks of object {name} are in bucket "
                    f"{self.bucket.name}: somebody else has removed them"
                )
            info = ObjectInfo(
                name=name,
                bucket=self.bucket.name,
                nuid=nuid,
                size=upload.size,
                chunks=upload.chunks,
                digest=digest_text(upload.digest),
                metadata=dict(metadata or {}),
                headers=dict(headers or {}),
                description=description,
                max_chunk_size=size,
            )
            if len(body := info.to_json()) + len(ROLLUP) > self._connection.max_payload:
                raise ValueError(f"the metadata of object {name} has {len(body)} bytes: too much")
        except BaseException as error:
            # Chunks that are still on their way would be stored behind the purge.
            if not isinstance(error, JetStreamDenied | NoAnswer):
                with suppress(NatsError):
                    upload.settle()
            with suppress(NatsError):
                self._purge(subject)
            if isinstance(error, JetStreamError):
                raise self._explained(error) from error
            raise
        self._publish_meta(info)
        if before:
            self._purge(self.bucket.chunks(before))
        return self.find(name) or info

    def _nuid_of(self, name: str) -> str:
        """That of the object that is there now; empty where there is none, or none that we know."""
        with suppress(ObjectDamaged):
            if (there := self.find(name)) is not None:
                return there.nuid
        return ""

    def _publish_meta(self, info: ObjectInfo) -> None:
        """Publish the meta message of an object whose chunks are there; they go if it is refused.

        It is asked again until there is an answer: it replaces itself.
        """
        try:
            self._store_meta(info)
        except JetStreamError as error:
            # The first one may have been stored, and its answer lost.
            there = self.find(info.name)
            if there is None or there.nuid != info.nuid:
                self._purge(self.bucket.chunks(info.nuid))
                raise self._explained(error) from error

    def _store_meta(self, info: ObjectInfo) -> None:
        subject = self.bucket.meta(info.name)
        passing: JetStreamError | None = None
        try:
            for _kind, _sid, _to, _reply, headers, payload in self._ask(
                subject, info.to_json(), ROLLUP, again=True
            ):
                if status_of(headers) == 503:
                    raise JetStreamOff(f"{self._connection.url}: no stream captures {subject}")
                try:
                    stream = read_pub_ack(payload, subject).stream
                except JetStreamError as error:
                    if error.err_code not in NO_LEADER:
                        raise
                    passing = error
                    continue
                if stream == self.bucket.stream:
                    return
        except NoAnswer:
            if passing is not None:
                raise passing from None
            raise

    # -- reading ---------------------------------------------------------------------------------

    def get(self, name: str) -> Iterator[bytes]:
        """The chunks of an object, see ``read``. Raises ObjectMissing."""
        info = self.find(name)
        if info is None:
            raise ObjectMissing(f"there is no object {name} in bucket {self.bucket.name}")
        return self.read(info)

    def read(self, info: ObjectInfo) -> Iterator[bytes]:
        """The chunks of an object, checked: act on none of them before the end.

        Raises ObjectDamaged, at the latest behind the last chunk, when they are not all there and
        as they were written, and ObjectMissing when the object was deleted or replaced meanwhile.
        Between two chunks the connection may be asked for other things.
        """
        what = f"object {info.name} of bucket {self.bucket.name}"
        if info.link is not None:
            raise ObjectDamaged(f"{what} is a link, which we do not follow")
        if info.sha256 is None:
            raise ObjectDamaged(f"{what} has no SHA-256 digest, but {info.digest!r}")
        window = max(1, READ_BYTES // max(1, info.max_chunk_size))
        digest, size, chunks, seq = hashlib.sha256(), 0, 0, 0
        while chunks < info.chunks:
            # Where the first one lies nobody knows; the others, most likely, right behind it.
            count = min(window, info.chunks - chunks) if chunks else 1
            found = self._some_chunks(info, seq + 1, count, chunks)
            seq = found[-1][0]
            for _seq, body in found:
                digest.update(body)
                size += len(body)
                chunks += 1
                yield body
        if size != info.size:
            raise ObjectDamaged(f"{what} has {size} bytes and should have {info.size}")
        if digest.digest() != info.sha256:
            raise ObjectDamaged(f"{what} has other content than was written: its digest differs")

    def _some_chunks(
        self, info: ObjectInfo, first: int, count: int, have: int
    ) -> list[tuple[int, bytes]]:
        """Some chunks at or behind a sequence, at least one, each with its sequence."""
        subject = self.bucket.chunks(info.nuid)
        start = time.monotonic()
        while True:
            try:
                found = self.leader_messages(self.bucket.stream, first, count, subject=subject)
            except NoAnswer:
                if time.monotonic() - start >= self._patience_s:
                    raise
                continue
            except JetStreamError as error:
                raise self._explained(error) from error
            if found:
                return [(seq, body) for seq, _headers, body in found]
            if time.monotonic() - start >= self._missing_for_s:
                break
            self._pause()
        now = self.find(info.name)
        if now is None or now.nuid != info.nuid:
            raise ObjectMissing(
                f"object {info.name} of bucket {self.bucket.name} was "
                f"{'deleted' if now is None else 'replaced'} while it was read"
            )
        raise ObjectDamaged(
            f"object {info.name} of bucket {self.bucket.name} has {have} chunks and should have "
            f"{info.chunks}"
        )

    def _pause(self) -> None:
        """Wait a little, and see to the connection meanwhile."""
        until = time.monotonic() + PAUSE_S
        while time.monotonic() < until:
            self._receive(until)

    # -- removing --------------------------------------------------------------------------------

    def delete(self, name: str) -> bool:
        """Delete an object: a marker tells others that it was there. False if there was none.

        In a full bucket there is no room for the marker, and none is left.
        """
        info = self.find(name)
        if info is None:
            return False
        marker = replace(info, deleted=True, size=0, chunks=0, digest="")
        try:
            self._store_meta(marker)
        except JetStreamError as error:
            if error.err_code not in NO_ROOM:
                raise self._explained(error) from error
            self._purge(self.bucket.meta(name))
        self._purge(self.bucket.chunks(info.nuid))
        return True

    def is_whole(self, info: ObjectInfo) -> bool:
        """Whether all chunks of an object are there; what they hold is not looked at."""
        return self._count(self.bucket.chunks(info.nuid)) == info.chunks

    def keep_newest(self, count: int, prefix: str) -> list[ObjectInfo]:
        """Of the objects whose names begin so, remove those that are older than the newest
        ``count`` whole ones, and what markers of deleted ones there are; those that were removed.

        No markers are left, else they would become more and more.
        """
        old: list[ObjectInfo] = []
        for info in reversed(self.objects(prefix, deleted=True)):
            if info.deleted:
                self._purge(self.bucket.meta(info.name))
            elif count <= 0:
                old.append(info)
            elif self.is_whole(info):
                count -= 1
        for info in old:
            self._purge(self.bucket.meta(info.name))
            self._purge(self.bucket.chunks(info.nuid))
        return old[::-1]

    def remove_orphans(self, older_than_s: float = ORPHANED_AFTER_S) -> int:
        """Remove chunks without a meta message, which a writer left that died: those of objects
        whose last chunk was stored so long ago. The number of such objects.

        A writer that was only slow then finds its chunks gone, and its object is never visible.
        """
        stream = self.bucket.stream
        info = self.stream_info(stream)
        if info is None:
            return 0
        now_ns = info.server_ns or time.time_ns()
        counts = self._subjects(self.bucket.chunks(">"))
        # Read behind the other: an object that became whole between the two is no orphan.
        known = {self.bucket.chunks(info.nuid) for info in self.objects()}
        removed = 0
        for subject in counts.keys() - known:
            last = self._find({"last_by_subj": subject})
            if last is not None and now_ns - last.timestamp_ns >= older_than_s * 1e9:
                self._purge(subject)
                removed += 1
        return removed
