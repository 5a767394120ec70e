"""A bucket of JetStream's object store: making it, and what is in it.

Everything is read from the stream's leader, message by message: what another replica does not have
yet would look as if it were not there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from alarmdigest.nats.answers import StoredMessage, StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import (
    BadAnswer,
    JetStreamError,
    NatsError,
    StreamConflict,
    StreamMissing,
)
from alarmdigest.nats.jetstream import NO_STREAM, JetStream
from alarmdigest.nats.object_info import BucketConfig, ObjectInfo

log = logging.getLogger(__name__)

# err_code of answers: a stream of this name, or one with some of its subjects, is there.
IN_THE_WAY = (10058, 10065)
# No room: in the account's storage or memory, on the server's disk, in the bucket.
NO_ROOM = (10002, 10023, 10028, 10047, 10077)


class BucketMissing(StreamMissing):
    """There is no such bucket, and we were told not to create it."""


class BucketConflict(StreamConflict):
    """The stream of the bucket's name cannot be used as one; says why, and what to do."""


class BucketFull(NatsError):
    """There is no room for an object; nothing of it is left in the bucket."""


class ObjectMissing(NatsError):
    """There is no object of this name, or it was deleted or replaced while it was read."""


class ObjectDamaged(NatsError):
    """An object is not as it was written, or is not there as a whole."""


class Bucket(JetStream):
    """One bucket, for the thread that owns the connection; see ``JetStream`` about taking over a
    connection that is in use, and about what every method may raise.

    JetStreamDenied says in the server's words which permission our user lacks.
    """

    def __init__(
        self,
        connection: Connection,
        bucket: BucketConfig,
        *,
        domain: str = "",
        timeout_s: float = 5.0,
        received: bytes | None = None,
    ) -> None:
        super().__init__(connection, domain=domain, timeout_s=timeout_s, received=received)
        self.bucket = bucket

    def ensure(self, *, create: bool) -> StreamInfo:
        """The bucket's stream; made if it is missing and ``create``. One that is there keeps its
        size and its number of replicas.

        Raises BucketMissing and BucketConflict, and BucketFull if the account has no room for it.
        """
        bucket = self.bucket
        for _ in range(3):
            if (info := self.stream_info(bucket.stream)) is None:
                if not create:
                    raise BucketMissing(
                        f"there is no bucket {bucket.name}, and we may not create it; this does: "
                        f"{bucket.add_command}"
                    )
                try:
                    info = self.create_stream(bucket.config())
                except JetStreamError as error:
                    if error.err_code in IN_THE_WAY and not (
                        holders := self._holders(bucket.subjects)
                    ):
                        continue  # somebody else was faster
                    if error.err_code in IN_THE_WAY:
                        raise BucketConflict(
                            f"bucket {bucket.name} cannot be made: stream {', '.join(holders)} "
                            f"captures {' or '.join(bucket.subjects)}"
                        ) from error
                    if error.err_code in NO_ROOM:
                        raise BucketFull(
                            f"no room for bucket {bucket.name}: {error.description}"
                        ) from error
                    raise
            if conflicts := bucket.conflicts(info):
                raise BucketConflict(
                    f"stream {bucket.stream} is no bucket of objects that we can use: "
                    f"{'; '.join(conflicts)}. Edit it (nats stream edit {bucket.stream}), or "
                    f"delete it (nats stream rm {bucket.stream}) and have it made anew"
                )
            return info
        raise BadAnswer(f"bucket {bucket.name} is made and deleted all the time")

    def _holders(self, subjects: Iterable[str]) -> list[str]:
        """Other streams that capture some of these subjects."""
        names = {name for subject in subjects for name in self.stream_names_for(subject)}
        return sorted(names - {self.bucket.stream})

    def find(self, name: str) -> ObjectInfo | None:
        """The object of this name; None if there is none. Raises ObjectDamaged if its meta message
        cannot be read."""
        message = self._find({"last_by_subj": self.bucket.meta(name)})
        if message is None:
            return None
        try:
            info = ObjectInfo.from_json(message.payload, message.timestamp_ns)
        except ValueError as error:
            raise ObjectDamaged(f"object {name} of bucket {self.bucket.name}: {error}") from error
        return None if info.deleted else info

    def objects(self, prefix: str = "", *, deleted: bool = False) -> list[ObjectInfo]:
        """All objects whose names begin so, the last written last; with ``deleted`` also the
        markers of those that are not there any more."""
        found: dict[str, ObjectInfo] = {}
        subject, seq = self.bucket.all_meta, 0
        while message := self._find({"seq": seq + 1, "next_by_subj": subject}):
            seq = message.seq
            try:
                info = ObjectInfo.from_json(message.payload, message.timestamp_ns)
            except ValueError as error:
                log.warning("bucket %s, message %d: %s", self.bucket.name, seq, error)
                continue
            # One that is replaced while we look is met again.
            found.pop(info.name, None)
            if info.name.startswith(prefix):
                found[info.name] = info
        return [info for info in found.values() if deleted or not info.deleted]

    def _find(self, which: dict[str, object]) -> StoredMessage | None:
        try:
            return self.find_message(self.bucket.stream, which)
        except JetStreamError as error:
            raise self._explained(error) from error

    def _purge(self, subject: str) -> None:
        try:
            self.request(f"STREAM.PURGE.{self.bucket.stream}", {"filter": subject})
        except JetStreamError as error:
            raise self._explained(error) from error

    def _count(self, subject: str) -> int:
        return self._subjects(subject).get(subject, 0)

    def _subjects(self, wanted: str) -> dict[str, int]:
        """How many messages there are on each of these subjects."""
        counts: dict[str, int] = {}
        while True:
            body = {"subjects_filter": wanted, "offset": len(counts)}
            answer = self.request(f"STREAM.INFO.{self.bucket.stream}", body)
            page = (answer.get("state") or {}).get("subjects") or {}
            new = page.keys() - counts.keys()
            counts.update(page)
            if not new or len(counts) >= int(answer.get("total") or 0):
                return counts

    def _explained(self, error: JetStreamError) -> NatsError:
        """The error of ours that this one of JetStream's means."""
        if error.err_code in NO_ROOM:
            return BucketFull(f"bucket {self.bucket.name} has no room: {error.description}")
        if error.err_code == NO_STREAM:
            return BucketMissing(f"there is no bucket {self.bucket.name}")
        return error

    def _is_about_us(self, refused: str) -> bool:
        return f"$O.{self.bucket.name}." in refused or super()._is_about_us(refused)
