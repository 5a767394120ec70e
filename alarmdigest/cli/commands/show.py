"""The command ``show``: one user's alarms as of the last checkpoint, from the store."""

from __future__ import annotations

import sys
import time
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest.cli.terminal import duration_text, table, write_json, write_line
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings
from alarmdigest.store import Checkpoint, StoreDamaged, open_reader
from alarmdigest.store.one_user import StoredAlarm, alarms_of


def show(settings: Settings, user_id: str, *, only_due: bool, as_json: bool) -> int:
    """Report on stdout; the exit code. Raises StoreError, SettingsError."""
    with open_reader(settings) as reader:
        try:
            alarms = alarms_of(reader, user_id)
        except UnicodeEncodeError:  # no message has such an id
            alarms = []
        except ValueError as error:
            raise StoreDamaged(f"the store cannot be read: {error}") from error
        last = reader.last  # that of these rows: a service may write meanwhile
    if not alarms or last is None:
        _say_unknown(user_id, last)
        return exit_codes.INTERNAL_ERROR
    shown = [alarm for alarm in alarms if alarm.due] if only_due else alarms
    if as_json:
        write_json(_as_json(user_id, last, shown))
    else:
        _write(user_id, last, shown, held=len(alarms))
    return exit_codes.CLEAN


def _say_unknown(user_id: str, last: Checkpoint | None) -> None:
    known = f"in checkpoint {last.number}" if last else "in a store without a checkpoint"
    print(f"alarmdigest: no alarms of user {user_id!a} {known}", file=sys.stderr)


def _as_json(user_id: str, last: Checkpoint, alarms: list[StoredAlarm]) -> dict[str, Any]:
    return {
        "UserID": user_id,
        "checkpoint": last.number,
        "written_at": timestamps.to_text(last.written_at_ns),
        "alarms": [
            {
                "AlarmID": alarm.alarm_id,
                "Status": alarm.status,
                "LatestChangedAt": timestamps.to_text(alarm.changed_at_ns),
                "arrived_at": timestamps.to_text(alarm.arrived_ns),
                "sent": None
                if alarm.sent_ns is None
                else {
                    "Status": alarm.sent_status,
                    "LatestChangedAt": timestamps.to_text(alarm.sent_ns),
                },
                "due": alarm.due,
            }
            for alarm in alarms
        ],
    }


def _write(user_id: str, last: Checkpoint, alarms: list[StoredAlarm], *, held: int) -> None:
    age = duration_text(max(0.0, (time.time_ns() - last.written_at_ns) / 1e9))
    write_line(f"user {printable(user_id)}, as of checkpoint {last.number}, written {age} ago")
    due = sum(alarm.due for alarm in alarms)
    write_line(f"{held} {'alarm' if held == 1 else 'alarms'}, {len(alarms)} shown, {due} due")
    lines = table(
        ("ALARM", "STATUS", "CHANGED AT", "SENT", "DUE"),
        [
            (
                printable(alarm.alarm_id),
                alarm.status,
                timestamps.to_text(alarm.changed_at_ns),
                "never"
                if alarm.sent_ns is None
                else f"{alarm.sent_status} {timestamps.to_text(alarm.sent_ns)}",
                "yes" if alarm.due else "no",
            )
            for alarm in alarms
        ],
    )
    for line in lines:
        write_line(line)
