"""The command ``forget``: all memory of a user ends, see docs/forgetting.md."""

from __future__ import annotations

import sys

from alarmdigest.cli.client import request_body
from alarmdigest.cli.connected_buckets import entries_of, purge, rules_of_environment
from alarmdigest.cli.sending import report, send_input
from alarmdigest.cli.user_id import checked_id
from alarmdigest.nats.errors import JetStreamDenied, NatsError
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings


def forget(settings: Settings, user_id: str, *, as_json: bool) -> int:
    """Report on stdout; the exit code: 1 where entries about him in buckets could not be removed.
    Who may not even ask for that is told so, and has forgotten him all the same.

    Raises NatsError, SettingsError.
    """
    user = checked_id(user_id, "USER")
    entries = entries_of(rules_of_environment(), user) if settings.mode != "core" else []
    sent = send_input(settings, settings.forget_subject, request_body(user), may_add=True)
    removed: int | None = None
    code = exit_codes.CLEAN
    for stream, subject in entries:
        try:
            count = purge(settings, stream, subject)
        except NatsError as error:
            if not isinstance(error, JetStreamDenied):
                code = exit_codes.INTERNAL_ERROR
            print(
                f"alarmdigest: what {stream} holds about {printable(user)}, if it is in use, is "
                f"still there ({error}): "
                f"`nats stream purge {stream} --subject '{subject}'`",
                file=sys.stderr,
            )
            continue
        if count is not None:
            removed = (removed or 0) + count
    fields: dict[str, str | int] = {"UserID": user_id}
    if removed is not None:
        fields["entries_removed"] = removed
    report(sent, f"user {user_id} is to be forgotten", as_json=as_json, **fields)
    return code
