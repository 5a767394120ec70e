"""The packed forms of ext/wire/records.pxd, for who reads or writes a few of them in Python.

The service's own way with them is compiled; this is for commands that apply its rule, and for a
trace.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import orjson

from alarmdigest._ext import timestamps
from alarmdigest._ext.router import EVENT, REQUEST
from alarmdigest.runtime.logs import Untrusted
from alarmdigest.wire.messages import STATUS_NAMES

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
        end = record_end(batch, position)
        yield batch[position:end], ROUTED_HEAD.unpack_from(batch, position)[4]
        position = end


def record_end(batch: bytes, position: int) -> int:
    """Where the routed record that begins at this offset ends, its padding included."""
    _time, _arrival, user, alarm, *_ = ROUTED_HEAD.unpack_from(batch, position)
    end = position + ROUTED_HEAD.size + user + alarm
    return int(end + -end % 8)


def describe(batch: bytes, position: int) -> dict[str, Any]:
    """A routed record for a log."""
    kind = ROUTED_HEAD.unpack_from(batch, position)[4]
    if kind != EVENT:
        return {"kind": "request" if kind == REQUEST else "forget"}
    alarm_id, status, time_ns = event_of(batch[position : record_end(batch, position)])
    return {
        "kind": "event",
        "alarm": Untrusted(alarm_id),
        "status": STATUS_NAMES[status],
        "changed_at": timestamps.to_text(time_ns),
    }


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


def messages_in(outgoing: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Headers and body of each outgoing record."""
    position = 0
    while position < len(outgoing):
        headers, body, *_ = OUTGOING_HEAD.unpack_from(outgoing, position)
        start = position + OUTGOING_HEAD.size
        end = start + headers + body
        yield outgoing[start : start + headers], outgoing[start + headers : end]
        position = end + -end % 8


def digests_in(outgoing: bytes) -> Iterator[tuple[str, int]]:
    """Of each digest message its id, empty in core mode, and how many alarms it holds."""
    for headers, body in messages_in(outgoing):
        _, _, message_id = headers.partition(b"Nats-Msg-Id: ")
        yield message_id.strip().decode(), len(orjson.loads(body)["ActiveAlarms"])
