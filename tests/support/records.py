"""The packed records of ext/wire/records.pxd, written and read with struct alone."""

import struct
from typing import NamedTuple

ROUTED_HEAD = struct.Struct("=qqHHBBH")
OUTGOING_HEAD = struct.Struct("=IIIIq")

EVENT, REQUEST, FORGET = 0, 1, 2
DIGEST, REJECTION = 0, 1


class Routed(NamedTuple):
    """One accepted message on its way to a worker. Ids as they are packed, in UTF-8.

    A request's ``alarm`` is empty, or its origin in a stream (see origin()).
    """

    kind: int
    user: bytes
    alarm: bytes
    status: int
    time_ns: int
    arrival_ns: int
    bucket: int = 0


class Outgoing(NamedTuple):
    """One message on its way to the publisher; ``headers`` are whole lines. ``user`` tells digests
    of one user from others, ``arrival_ns`` is that of its input, where a stream has it."""

    kind: int
    headers: bytes
    body: bytes
    user: int = 0
    arrival_ns: int = 0


def origin(sequence: int, timestamp_ns: int) -> bytes:
    """Where a request stands in a stream, as it is packed in place of an AlarmID."""
    return struct.pack("<Qq", sequence, timestamp_ns)


def unpack(batch: bytes) -> list[Routed]:
    """The routed records of a batch; ValueError where the padding or a length is wrong."""
    records = []
    position = 0
    while position < len(batch):
        time_ns, arrival_ns, user_len, alarm_len, kind, status, bucket = ROUTED_HEAD.unpack_from(
            batch, position
        )
        ids = position + ROUTED_HEAD.size
        end = ids + user_len + alarm_len
        user, alarm = batch[ids : ids + user_len], batch[ids + user_len : end]
        records.append(Routed(kind, user, alarm, status, time_ns, arrival_ns, bucket))
        position = _behind_padding(batch, end)
    return records


def pack(records: list[Routed]) -> bytes:
    """The batch that unpack() reads as these records."""
    return b"".join(
        padded(
            ROUTED_HEAD.pack(
                one.time_ns,
                one.arrival_ns,
                len(one.user),
                len(one.alarm),
                one.kind,
                one.status,
                one.bucket,
            )
            + one.user
            + one.alarm
        )
        for one in records
    )


def unpack_outgoing(batch: bytes) -> list[Outgoing]:
    """The outgoing records of a batch; ValueError where the padding or a length is wrong."""
    records = []
    position = 0
    while position < len(batch):
        headers_len, body_len, kind, user, arrival_ns = OUTGOING_HEAD.unpack_from(batch, position)
        headers = position + OUTGOING_HEAD.size
        body = headers + headers_len
        body_end = body + body_len
        one = Outgoing(kind, batch[headers:body], batch[body:body_end], user, arrival_ns)
        records.append(one)
        position = _behind_padding(batch, body_end)
    return records


def pack_outgoing(records: list[Outgoing]) -> bytes:
    """The batch that unpack_outgoing() reads as these records."""
    return b"".join(
        padded(
            OUTGOING_HEAD.pack(len(one.headers), len(one.body), one.kind, one.user, one.arrival_ns)
            + one.headers
            + one.body
        )
        for one in records
    )


def padded(record: bytes) -> bytes:
    return record + bytes(-len(record) % 8)


def _behind_padding(batch: bytes, end: int) -> int:
    padding = batch[end : end + -end % 8]
    if len(padding) != -end % 8 or any(padding) or end > len(batch):
        raise ValueError(f"a record ends at {end} of {len(batch)} bytes, padded with {padding!r}")
    return end + len(padding)
