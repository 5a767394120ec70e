"""The command ``clear``: one alarm of a user is cleared, by an ordinary event."""

from __future__ import annotations

import sys
import time

from alarmdigest._ext import timestamps
from alarmdigest.cli.client import event_body
from alarmdigest.cli.questions import ask, who
from alarmdigest.cli.sending import report, send_input
from alarmdigest.cli.user_id import checked_id
from alarmdigest.nats.errors import NatsError
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings, SettingsError


def clear(settings: Settings, user_id: str, alarm_id: str, *, as_json: bool) -> int:
    """Report on stdout; the exit code: 1 for an alarm that is not there, or is cleared already.

    Raises NatsError, SettingsError.
    """
    user, alarm = checked_id(user_id, "USER"), checked_id(alarm_id, "ALARM")
    changed_at_ns = time.time_ns()
    try:
        answer = ask(settings, "show", "alarms", UserID=user)
    except (NatsError, SettingsError) as error:
        print(
            f"alarmdigest: not known whether there is such an alarm, and whether one of its events "
            f"says a later time, which would count: {error}",
            file=sys.stderr,
        )
    else:
        found = next((one for one in answer["alarms"] if one["AlarmID"] == alarm), None)
        if found is None or found["Status"] == "CLEARED":
            why = "there is none" if found is None else "it is CLEARED already"
            print(
                f"alarmdigest: alarm {alarm!a} of user {user!a}: {why}, says {who(answer)}",
                file=sys.stderr,
            )
            return exit_codes.INTERNAL_ERROR
        # Later than the event that it clears, whatever time that one says.
        changed_at_ns = max(changed_at_ns, timestamps.to_ns(found["LatestChangedAt"]) + 1)
    body = event_body(user, alarm, "CLEARED", changed_at_ns)
    sent = send_input(settings, settings.event_subject, body)
    what = f"alarm {alarm_id} of user {user_id} is to be cleared"
    report(sent, what, as_json=as_json, UserID=user_id, AlarmID=alarm_id)
    return exit_codes.CLEAN
