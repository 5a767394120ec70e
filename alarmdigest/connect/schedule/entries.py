"""Schedules as entries of the key-value bucket ALARM_SCHEDULES; docs/schedules.md has the format.

Entries name their user, since keys hold a hash of him: ids have characters that no key may have.
What was removed stays as an entry that says so: whoever follows the bucket reads bodies only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from alarmdigest.connect.schedule.schedule import (
    UTC,
    Schedule,
    paused_until_text,
    read_paused_until,
    read_schedule,
    written,
)
from alarmdigest.wire.messages import MAX_ID_BYTES


@dataclass(frozen=True, slots=True)
class Entry:
    """Of a user, or of EVERYBODY else. Without a schedule, that of everybody else counts for a
    user. ``paused_until_ns`` in ns since 1970, 0 for no pause. One that is ``removed`` says
    nothing any more."""

    user: str | None
    schedule: Schedule | None = None
    paused_until_ns: int = 0
    removed: bool = False


def packed(entry: Entry) -> bytes:
    fields: dict[str, Any] = {"UserID": entry.user}
    if entry.removed:
        fields["removed"] = True
    if entry.schedule is not None:
        fields["schedule"] = written(entry.schedule)
    if entry.paused_until_ns:
        fields["paused_until"] = paused_until_text(entry.paused_until_ns)
    return orjson.dumps(fields)


def unpacked(body: bytes) -> Entry:
    """Raises ValueError for what is none: anybody who may can write there."""
    fields = orjson.loads(body)
    if not isinstance(fields, dict) or "UserID" not in fields:
        raise ValueError("it is no object with a UserID")
    user = fields["UserID"]
    if user is not None and not (isinstance(user, str) and 1 <= len(user.encode()) <= MAX_ID_BYTES):
        raise ValueError(f"UserID {user!r:.80} is none")
    if fields.get("removed"):
        return Entry(user, removed=True)
    schedule = fields.get("schedule")
    if schedule is not None and not isinstance(schedule, dict):
        raise ValueError(f"schedule {schedule!r:.80} is no object")
    paused = fields.get("paused_until")
    return Entry(
        user,
        read_schedule(schedule) if schedule is not None else None,
        read_paused_until(paused, UTC) if paused is not None else 0,
    )
