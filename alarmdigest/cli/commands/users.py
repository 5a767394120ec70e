"""The command ``users``: who has alarms, and who waits for a digest; from the running service."""

from __future__ import annotations

import time
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest.cli.questions import ask, who
from alarmdigest.cli.terminal import duration_text, table, write_json, write_line
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings

# Longer ids are cut in the table; --json has all of them.
LONGEST_NAME = 64
HEADS = ("USER", "DUE", "ACTIVE", "CRITICAL", "ALARMS", "WAITS FOR")


def users(
    settings: Settings, *, only_due: bool, only_active: bool, top: int, sort: str, as_json: bool
) -> int:
    """Report on stdout; the exit code. Raises NatsError, SettingsError."""
    found = ask(settings, "users", "top", due=only_due, active=only_active, top=top, sort=sort)
    if as_json:
        write_json(found)
        return exit_codes.CLEAN
    write_line(printable(f"as {who(found)} knows it now"))
    write_line(
        f"users: {found['users']}, alarms: {found['alarms']}, active: {found['active']}, "
        f"due: {found['due']}; shown: {len(found['top'])} of {found['found']}"
    )
    now_ns = time.time_ns()
    for line in table(HEADS, [_row(user, now_ns) for user in found["top"]]):
        write_line(line)
    return exit_codes.CLEAN


def _row(user: dict[str, Any], now_ns: int) -> tuple[str, ...]:
    since = user["waits_since"]
    waits = "-"
    if since is not None:
        waits = duration_text(max(0.0, (now_ns - timestamps.to_ns(since)) / 1e9))
    counts = (str(user[name]) for name in ("due", "active", "critical", "alarms"))
    name = printable(user["UserID"])
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 1]}…"
    return (name, *counts, waits)
