"""The packed forms of ext/wire/records.pxd, for who reads or writes a few of them in Python.

The service's own way with them is compiled; this is for commands that apply its rule.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

# Time, arrival, lengths of UserID and AlarmID, kind, status, bucket; then the ids.
ROUTED_HEAD: Final = struct.Struct("=qqHHBBH")
# Lengths of headers and body, kind, a number for the user, arrival; then headers and body.
OUTGOING_HEAD: Final = struct.Struct("=IIIIq")


def padded(record: bytes) -> bytes:
    """With what a batch has behind it: each record begins at a multiple of 8 bytes."""
    return record + bytes(-len(record) % 8)


def split_routed(batch: bytes) -> Iterator[tuple[bytes, int]]:
    """Each routed record, its padding included, and its kind."""
    position = 0
    while position < len(batch):
        _time, _arrival, user, alarm, kind, _, _ = ROUTED_HEAD.unpack_from(batch, position)
        end = position + ROUTED_HEAD.size + user + alarm
        end += -end % 8
        yield batch[position:end], kind
        position = end


def event_of(record: bytes) -> tuple[str, int, int]:
    """AlarmID, status and time in ns of a routed event."""
    time_ns, _, user, alarm, _, status, _ = ROUTED_HEAD.unpack_from(record)
    start = ROUTED_HEAD.size + user
    return record[start : start + alarm].decode(), status, time_ns


def event_like(request: bytes, alarm_id: str, status: int, time_ns: int) -> bytes:
    """A routed event of the same user and arrival as a routed record of another kind."""
    _, arrival_ns, user, _, _, _, bucket = ROUTED_HEAD.unpack_from(request)
    alarm = alarm_id.encode()
    head = ROUTED_HEAD.pack(time_ns, arrival_ns, user, len(alarm), 0, status, bucket)
    return padded(head + request[ROUTED_HEAD.size : ROUTED_HEAD.size + user] + alarm)


def bodies(outgoing: bytes) -> Iterator[bytes]:
    """Of the messages in outgoing records."""
    position = 0
    while position < len(outgoing):
        headers, body, *_ = OUTGOING_HEAD.unpack_from(outgoing, position)
        start = position + OUTGOING_HEAD.size + headers
        yield outgoing[start : start + body]
        position = start + body + -(start + body) % 8
