"""The command ``clear``: one alarm of a user is cleared, by an ordinary event."""

from __future__ import annotations

import time

from alarmdigest.cli.client import event_body
from alarmdigest.cli.sending import report, send_input
from alarmdigest.cli.user_id import checked_id
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings


def clear(settings: Settings, user_id: str, alarm_id: str, *, as_json: bool) -> int:
    """Report on stdout; the exit code. Raises NatsError, SettingsError."""
    user, alarm = checked_id(user_id, "USER"), checked_id(alarm_id, "ALARM")
    body = event_body(user, alarm, "CLEARED", time.time_ns())
    sent = send_input(settings, settings.event_subject, body)
    what = f"alarm {alarm_id} of user {user_id} is to be cleared"
    report(sent, what, as_json=as_json, UserID=user_id, AlarmID=alarm_id)
    return exit_codes.CLEAN
