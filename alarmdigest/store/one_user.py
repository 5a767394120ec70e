"""One user's alarms out of rows, for a person who asks; the service loads rows in ext/.

The layout is that of ext/rows/row_codec.pxd, where the numbers of the value are little-endian:

    key    bucket u16 | BLAKE2b-128 of UserID (16 bytes) | block number within the user u32
    value  version u8 | length of UserID u16 | count u16 | UserID | alarms | checksum u64
    alarm  latest_ns i64 | sent_ns i64 | arrived_ns i64 | length u16 | states u8 | AlarmID
    states bits 0-1 latest status, 2-3 status sent (3: never), 4 changed since
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest._ext.rows import KEY_BYTES
from alarmdigest.store.base import Reader
from alarmdigest.wire.buckets import bucket_of
from alarmdigest.wire.messages import STATUS_NAMES, STATUSES

VERSION = 1
_LENGTH = struct.Struct("<I")
_VALUE = struct.Struct("<BHH")
_ALARM = struct.Struct("<qqqHB")
_NEVER = 3
_CHANGED = 16


@dataclass(frozen=True, slots=True)
class StoredAlarm:
    """One alarm as of a checkpoint. Times in nanoseconds since 1970 UTC.

    ``sent_status`` and ``sent_ns`` are those of the event that was last in a digest, None if none
    ever was.
    """

    alarm_id: str
    status: str
    changed_at_ns: int
    arrived_ns: int
    sent_status: str | None
    sent_ns: int | None
    due: bool


def alarms_of(reader: Reader, user_id: str) -> list[StoredAlarm]:
    """The alarms of a user, the oldest ``changed_at_ns`` first; none for a user who is not there.

    Raises StoreError, and ValueError when a row is none of this version.
    """
    return alarms_in(reader.rows_below(key_of(user_id)))


def alarms_in(rows: bytes) -> list[StoredAlarm]:
    """The alarms of packed rows, the oldest ``changed_at_ns`` first. Raises ValueError."""
    found = [alarm for value in _values(rows) for alarm in _alarms_in(value)]
    return sorted(found, key=lambda alarm: (alarm.changed_at_ns, alarm.alarm_id.encode()))


def alarm_json(alarm: StoredAlarm) -> dict[str, Any]:
    """Names as in a digest, where that has them."""
    sent = None
    if alarm.sent_ns is not None:
        sent = {"Status": alarm.sent_status, "LatestChangedAt": timestamps.to_text(alarm.sent_ns)}
    return {
        "AlarmID": alarm.alarm_id,
        "Status": alarm.status,
        "LatestChangedAt": timestamps.to_text(alarm.changed_at_ns),
        "arrived_at": timestamps.to_text(alarm.arrived_ns),
        "sent": sent,
        "due": alarm.due,
    }


def key_of(user_id: str) -> bytes:
    """What the keys of all of a user's rows begin with."""
    hashed = hashlib.blake2b(user_id.encode(), digest_size=16).digest()
    return struct.pack(">H", bucket_of(user_id)) + hashed


def _values(rows: bytes) -> Iterator[bytes]:
    """The values of packed rows, see ext/rows/rows.pyx."""
    at = 0
    while at < len(rows):
        (length,) = _LENGTH.unpack_from(rows, at)
        at += _LENGTH.size + KEY_BYTES
        yield rows[at : at + length]
        at += length


def _alarms_in(value: bytes) -> Iterator[StoredAlarm]:
    version, user_length, count = _VALUE.unpack_from(value)
    if version != VERSION:
        raise ValueError(f"a row of version {version}, this program knows {VERSION}")
    at = _VALUE.size + user_length
    for _ in range(count):
        latest_ns, sent_ns, arrived_ns, length, states = _ALARM.unpack_from(value, at)
        at += _ALARM.size
        latest, sent = states & 3, states >> 2 & 3
        ever_sent = sent != _NEVER
        yield StoredAlarm(
            alarm_id=value[at : at + length].decode(),
            status=STATUS_NAMES[latest],
            changed_at_ns=latest_ns,
            arrived_ns=arrived_ns,
            sent_status=STATUS_NAMES[sent] if ever_sent else None,
            sent_ns=sent_ns if ever_sent else None,
            due=latest != STATUSES["CLEARED"] and (not ever_sent or bool(states & _CHANGED)),
        )
        at += length
