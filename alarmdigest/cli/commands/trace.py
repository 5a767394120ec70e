"""The command ``trace``: have the service log each step of one user's messages for a while."""

from __future__ import annotations

from alarmdigest.cli.questions import ask_all, who
from alarmdigest.cli.terminal import write_json, write_line
from alarmdigest.cli.user_id import checked_id
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings


def trace(settings: Settings, user_id: str, *, seconds: int, as_json: bool) -> int:
    """Report on stdout; the exit code. 0 seconds end it. Raises NatsError, SettingsError."""
    user = checked_id(user_id, "USER")
    for one in ask_all(settings, "trace", "instead_of", UserID=user, seconds=seconds):
        if as_json:
            write_json({"UserID": user, "seconds": seconds, "replica": one["replica"]})
        elif seconds:
            others = "".join(f", and no more of user {other}" for other in one["instead_of"])
            write_line(
                printable(f"{who(one)} logs each step of user {user} for {seconds} s{others}")
            )
        else:
            write_line(printable(f"{who(one)} traces nobody any more"))
    return exit_codes.CLEAN
