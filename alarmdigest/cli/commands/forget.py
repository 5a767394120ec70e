"""The command ``forget``: all memory of a user ends, see docs/forgetting.md."""

from __future__ import annotations

from alarmdigest.cli.client import request_body
from alarmdigest.cli.sending import report, send_input
from alarmdigest.cli.user_id import checked_id
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings


def forget(settings: Settings, user_id: str, *, as_json: bool) -> int:
    """Report on stdout; the exit code. Raises NatsError, SettingsError."""
    body = request_body(checked_id(user_id, "USER"))
    sent = send_input(settings, settings.forget_subject, body, may_add=True)
    report(sent, f"user {user_id} is to be forgotten", as_json=as_json, UserID=user_id)
    return exit_codes.CLEAN
