"""The compiled core alone: router and alarm books in one process, without threads and sockets.

Arrivals are chosen by the test, so that clamping and retention can be had at will.
"""

from __future__ import annotations

from collections.abc import Iterable

import mmh3
import orjson
from histories import History, event_body, request_body
from model import RETENTION_NS, SKEW_NS, Digest, Entry, Event, Forget, Message, Status, parse_time

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest._ext.router import (
    EVENT,
    EVENT_SIDS,
    FORGET,
    FORGET_SIDS,
    REQUEST,
    REQUEST_SIDS,
    Router,
)
from alarmdigest.wire.buckets import BUCKETS
from alarmdigest.wire.messages import Rejected, parse_leniently
from support.records import DIGEST, unpack_outgoing

SECRET = bytes(range(16))
SPLIT_BYTES = 1024 * 1024

_SIDS = {EVENT: EVENT_SIDS[0], REQUEST: REQUEST_SIDS[0], FORGET: FORGET_SIDS[0]}


class Core:
    """What stands between the socket that is read and the one that is written.

    ``route`` takes messages as the client thread does, ``merge`` hands what has gathered to the
    books as the workers do. Where batches are cut is thus up to the test.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        skew_ns: int = SKEW_NS,
        retention_ns: int = RETENTION_NS,
        publish_empty: bool = False,
        split_bytes: int = SPLIT_BYTES,
    ) -> None:
        self.refused: list[str] = []
        self.router = Router(
            workers=workers,
            buckets=BUCKETS,
            hash32=mmh3.hash,
            skew_ns=skew_ns,
            read_or_reject=self._odd,
        )
        self.books = [
            AlarmBook(
                retention_ns=retention_ns,
                split_bytes=split_bytes,
                secret=SECRET,
                publish_empty=publish_empty,
            )
            for _ in range(workers)
        ]

    def _odd(
        self, kind: int, body: bytes, _subject: bytes, _origin: object
    ) -> tuple[bytes, bytes, int, int] | None:
        try:
            return parse_leniently(kind, body)
        except Rejected as refusal:
            self.refused.append(refusal.reason)
            return None

    def route(self, kind: int, body: bytes, arrival_ns: int) -> None:
        """Read one message's body (``kind`` is EVENT, REQUEST or FORGET) at its arrival."""
        frame = b"MSG s %d %d\r\n%b\r\n" % (_SIDS[kind], len(body), body)
        assert self.router.scan(frame, 0, len(frame), arrival_ns) == len(frame)

    def merge(self) -> list[bytes]:
        """Merge what was routed; the bodies of the digests that it makes, worker by worker."""
        return [
            body
            for worker, book in enumerate(self.books)
            for body in merged(book, self.router.take(worker))
        ]

    def route_message(self, message: Message, arrival_ns: int) -> None:
        if isinstance(message, Event):
            self.route(EVENT, event_body(message), arrival_ns)
        else:
            kind = FORGET if isinstance(message, Forget) else REQUEST
            self.route(kind, request_body(message), arrival_ns)

    def run(self, history: History, cuts: Iterable[int] = ()) -> list[Digest]:
        """Take a whole history; its digests. After the messages of these numbers, and after
        the last one, a batch ends."""
        ends = set(cuts)
        bodies: list[bytes] = []
        for number, (message, arrival_ns) in enumerate(history):
            self.route_message(message, arrival_ns)
            if number in ends:
                bodies += self.merge()
        bodies += self.merge()
        return [read_digest(body) for body in bodies]


def merged(book: AlarmBook, batch: bytes) -> list[bytes]:
    """Merge a batch to its end; the digests' bodies."""
    position = 0
    bodies: list[bytes] = []
    while position < len(batch):
        before = position
        made, position = book.merge(batch, position)
        assert before < position <= len(batch)
        bodies += bodies_of(made)
    return bodies


def bodies_of(outgoing: bytes) -> list[bytes]:
    """The bodies of outgoing records, all of them digests without headers of their own."""
    records = unpack_outgoing(outgoing)
    assert all((record.headers, record.kind) == (b"", DIGEST) for record in records)
    return [record.body for record in records]


def read_digest(body: bytes) -> Digest:
    """A digest as the model has it. Fails where the body holds anything but what it must."""
    document = orjson.loads(body)
    assert list(document) == ["UserID", "ActiveAlarms"]
    return Digest(document["UserID"], tuple(_read_entry(one) for one in document["ActiveAlarms"]))


def _read_entry(entry: dict[str, str]) -> Entry:
    assert list(entry) == ["AlarmID", "Status", "LatestChangedAt"]
    changed_at = entry["LatestChangedAt"]
    assert len(changed_at) == len("2021-06-07T20:40:15.598765212Z")
    assert changed_at.endswith("Z")
    return Entry(entry["AlarmID"], Status[entry["Status"]], parse_time(changed_at))
