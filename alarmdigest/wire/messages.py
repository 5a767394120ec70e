"""Bytes -> events, requests, users to forget: every accepted spelling, and every reason to reject.

The compiled router takes the plain shape of a message by itself and asks here for all others, the
slow path (``ext/wire/router.pyx``), so this is where the wire contract can be read in full. Reasons
are checked in the contract's order: json, schema, too_long, status, changed_at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from alarmdigest._ext import timestamps
from alarmdigest._ext.router import EVENT, last_written

MAX_ID_BYTES: Final = 1024
STATUSES: Final = {"CLEARED": 0, "WARNING": 1, "CRITICAL": 2}
STATUS_NAMES: Final = {number: name for name, number in STATUSES.items()}
REASONS: Final = ("json", "schema", "too_long", "status", "changed_at")

EVENT_FIELDS: Final = ("AlarmID", "UserID", "Status", "ChangedAt")
USER_FIELDS: Final = ("UserID",)

# In the headers of a digest: the sequence of the request that it answers, and its time in ns.
ANSWERED_REQUEST: Final = re.compile(rb"\r\nAlarmdigest-Request: *(\d+) (\d+)\r\n")
# In those of some: all digests of requests up to this input message are stored.
STORED_THROUGH: Final = re.compile(rb"\r\nAlarmdigest-Stored-Through: *(\d+) (\d+)\r\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One AlarmStatusChanged. Times in nanoseconds since 1970 UTC, before any clamping."""

    user_id: str
    alarm_id: str
    status: int
    changed_at_ns: int


class Rejected(ValueError):
    """A message that is not accepted: one of REASONS, and a line for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def read_event(payload: bytes) -> Event:
    """Read an AlarmStatusChanged. Raises Rejected."""
    fields = _read_fields(payload, EVENT_FIELDS)
    status = STATUSES.get(fields["Status"])
    if status is None:
        raise Rejected("status", "Status must be CLEARED, WARNING or CRITICAL, in capitals")
    try:
        changed_at_ns = timestamps.to_ns(fields["ChangedAt"])
    except ValueError as error:
        raise Rejected("changed_at", f"ChangedAt is {error}") from None
    return Event(fields["UserID"], fields["AlarmID"], status, changed_at_ns)


def parse_leniently(kind: int, payload: bytes) -> tuple[bytes, bytes, int, int]:
    """For the slow path (``SlowPath.read_or_reject``): ``(user, alarm, status, time_ns)``
    with ids in UTF-8. Raises Rejected."""
    if kind != EVENT:
        return _read_fields(payload, USER_FIELDS)["UserID"].encode(), b"", 0, 0
    event = read_event(payload)
    return event.user_id.encode(), event.alarm_id.encode(), event.status, event.changed_at_ns


def _read_fields(payload: bytes, names: tuple[str, ...]) -> dict[str, str]:
    """The named fields of a JSON object, each a non-empty string, ids not too long."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise Rejected("json", f"not JSON in UTF-8: {error}") from None
    if not isinstance(found, dict):
        raise Rejected("schema", "the message must be one JSON object")
    fields = {name: _field(found, name, payload) for name in names}
    for name in names:
        if name.endswith("ID") and len(fields[name].encode()) > MAX_ID_BYTES:
            raise Rejected("too_long", f"{name} has more than {MAX_ID_BYTES} bytes")
    return fields


def _field(found: dict[str, Any], name: str, payload: bytes) -> str:
    """A field by its exact name, else by the last name that differs in ASCII case only."""
    key: str | None = name
    if name not in found:
        alike = frozenset(other for other in found if _same_but_for_case(other, name))
        key = last_written(payload, alike) if len(alike) > 1 else next(iter(alike), None)
    if key is None:
        raise Rejected("schema", f"{name} is missing")
    value = found[key]
    if not isinstance(value, str):
        raise Rejected("schema", f"{name} must be a string")
    if not value:
        raise Rejected("schema", f"{name} must not be empty")
    return value


def _same_but_for_case(one: str, other: str) -> bool:
    # Only ASCII letters have two cases here; lower() alone would also fold the Kelvin sign.
    return len(one) == len(other) and one.isascii() and one.lower() == other.lower()


def may_be_about(user: bytes, payload: bytes) -> bool:
    """Of a message that was rejected: whether it names the user, as far as it can be read."""
    found = _as_object(payload)
    if found is None:
        return b'"%b"' % user in payload
    return _named(found, "userid").encode() == user


def rejected_alarm(payload: bytes) -> str:
    """Of a message that was rejected: the alarm that it names; empty where that cannot be read."""
    return _named(_as_object(payload) or {}, "alarmid")


def _as_object(payload: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else {}


def _named(fields: dict[str, Any], name: str) -> str:
    texts = [v for k, v in fields.items() if k.lower() == name and isinstance(v, str)]
    return texts[-1] if texts else ""
