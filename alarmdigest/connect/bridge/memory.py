"""What bridges remember of an alarm's times, in a key-value bucket that all of them read."""

from __future__ import annotations

from alarmdigest.connect.bridge.times import Entry, Times
from alarmdigest.connect.bucket_reader import entries_from
from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.publishing import Outgoing
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import StreamMissing
from alarmdigest.nats.jetstream import JetStream


def message_of(bucket: BucketConfig, entry: Entry) -> Outgoing:
    """The body says all of it: readers may not see the subject."""
    kind, key, at_ns, told_ns = entry
    body = f"{kind} {key} {at_ns} {told_ns}".encode()
    return Outgoing(bucket.stream, bucket.subject(f"{kind}.{key}"), body)


def entry_of(body: bytes) -> Entry | None:
    """None for what is none: anybody who may can write there, and deletions are empty."""
    kind, *rest = body.decode("ascii", "replace").split(" ")
    if kind not in ("c", "f") or len(rest) != 3:
        return None
    key, *numbers = rest
    if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
        return None
    return Entry(kind, key, *map(int, numbers))


class Memory:
    """Keeps ``times`` up to date with the bucket. Belongs to the publisher."""

    def __init__(self, bucket: BucketConfig, times: Times) -> None:
        self._bucket = bucket
        self._times = times
        self._created = ""
        self._read_through = 0
        self._own: set[int] = set()

    def wrote(self, sequence: int) -> None:
        """An entry of ours has this sequence: it need not be read."""
        self._own.add(sequence)

    def catch_up(self, js: JetStream) -> None:
        """Read what other bridges have written since. Raises StreamMissing, and what JetStream's
        requests raise."""
        info = js.stream_info(self._bucket.stream)
        if info is None:
            raise StreamMissing(f"the bucket {self._bucket.name} was deleted; we make it again")
        self.read(js, info)

    def forget(self) -> None:
        """Something that was decided may not be in the bucket: read all of it again."""
        self._created = ""

    def read(self, js: JetStream, info: StreamInfo) -> None:
        if info.created != self._created or info.last_seq < self._read_through:
            self._times.forget_all()
            self._created, self._read_through = info.created, 0
            self._own.clear()
        while (following := self._read_through + 1) in self._own:
            self._own.discard(following)
            self._read_through = following
        if info.last_seq <= self._read_through or info.messages == 0:
            return
        for sequence, body in entries_from(js, info, self._read_through + 1):
            self._take(body)
            self._read_through = max(self._read_through, sequence)
        self._read_through = max(self._read_through, info.last_seq)
        self._own = {one for one in self._own if one > self._read_through}

    def _take(self, body: bytes) -> None:
        if (entry := entry_of(body)) is not None:
            self._times.remember(entry)
