"""The command ``forget``: all memory of a user ends, see docs/forgetting.md."""

from __future__ import annotations

import sys

from alarmdigest.cli.bridge_buckets import purge_user, remedy
from alarmdigest.cli.client import request_body
from alarmdigest.cli.sending import report, send_input
from alarmdigest.cli.user_id import checked_id
from alarmdigest.nats.errors import JetStreamDenied, NatsError
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings


def forget(settings: Settings, user_id: str, *, as_json: bool) -> int:
    """Report on stdout; the exit code: 1 where a bridge's entries about him could not be removed.
    Who may not even ask for that is told so, and has forgotten him all the same.

    Raises NatsError, SettingsError.
    """
    user = checked_id(user_id, "USER")
    sent = send_input(settings, settings.forget_subject, request_body(user), may_add=True)
    what = f"user {user_id} is to be forgotten"
    removed: int | None = None
    failed: NatsError | None = None
    if settings.mode != "core":
        try:
            removed = purge_user(settings, user)
        except NatsError as error:
            failed = error
    fields: dict[str, str | int] = {"UserID": user_id}
    if removed is not None:
        fields["details_removed"] = removed
    report(sent, what, as_json=as_json, **fields)
    if failed is not None:
        print(f"alarmdigest: {remedy(failed, user)}", file=sys.stderr)
        if not isinstance(failed, JetStreamDenied):
            return exit_codes.INTERNAL_ERROR
    return exit_codes.CLEAN
