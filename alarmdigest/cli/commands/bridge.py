"""The command ``bridge``: alerts of other systems over HTTP become events, see docs/bridge.md."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from alarmdigest.cli.terminal import table, write_json, write_line
from alarmdigest.connect.bridge.explain import explained
from alarmdigest.connect.bridge.runner import BridgeRunner, rules_reader
from alarmdigest.process.blocked_signals import BLOCKED_SIGNALS
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings


def bridge(settings: Settings, *, rules_file: Path | None, listen_on: str | None) -> int:
    """Run it; the exit code. Raises SettingsError."""
    return BridgeRunner(settings, rules_reader(rules_file, listen_on)).run()


def explain(rules_file: Path | None, payload: Path, *, sender: str | None, as_json: bool) -> int:
    """What a payload would become, on stdout; 1 where a part of it would be rejected.

    Raises SettingsError.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)
    found = explained(rules_reader(rules_file, None)(), payload, sender)
    if as_json:
        for one in found:
            write_json(one)
    else:
        _write_table(found)
    rejected = any(one["becomes"] == "rejected" for one in found)
    return exit_codes.INTERNAL_ERROR if rejected else exit_codes.CLEAN


def _write_table(found: list[dict[str, Any]]) -> None:
    alarms = [one for one in found if one["becomes"] == "alarm"]
    rows = [
        (
            printable(one["UserID"]),
            printable(one["AlarmID"]),
            one["Status"],
            one["ChangedAt"],
            one["time"],
        )
        for one in alarms
    ]
    if rows:
        for line in table(("USER", "ALARM", "STATUS", "CHANGED AT", "TIME"), rows):
            write_line(line)
    if found:
        print(f"taken for a body of /{found[0]['sender']}", file=sys.stderr, flush=True)
    for one in found:
        if one["becomes"] == "rejected":
            write_line(
                printable(f"alert {one['alert']} rejected ({one['reason']}): {one['detail']}")
            )
        elif one["becomes"] == "nothing":
            write_line(printable(f"alert {one['alert']} is no alarm: {one['why']}"))
    if not found:
        write_line("the payload has no alerts")
