"""The command ``deliver``: digests become messages to people, see docs/deliver.md."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alarmdigest.cli.client import connect
from alarmdigest.cli.terminal import table, write_json, write_line
from alarmdigest.process.blocked_signals import BLOCKED_SIGNALS
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError

if TYPE_CHECKING:
    from alarmdigest.connect.deliver.routes import Routes

ROUTES_VARIABLE = "ALARMDIGEST_DELIVER_ROUTES"


def deliver(settings: Settings, routes_file: Path | None, *, listen_on: str) -> int:
    """Run it; the exit code. Raises SettingsError."""
    _need_libraries()
    from alarmdigest.connect.deliver.runner import run

    return run(settings, routes_file, listen_on)


def trial(routes_file: Path | None, user_id: str, *, as_json: bool) -> int:
    """Send a test to one user's targets; 1 where one of them did not take it.

    Raises SettingsError.
    """
    routes = _routes_of_a_tool(routes_file)
    from alarmdigest.connect.deliver.trial import try_targets

    results = list(try_targets(routes, user_id))
    if as_json:
        for one in results:
            write_json({"target": one.target, "sent": not one.problem, "problem": one.problem})
    elif results:
        rows = [(one.target, one.problem or "sent") for one in results]
        for line in table(("TARGET", "RESULT"), rows):
            write_line(line)
    if not results:
        print(f"alarmdigest: no route covers {printable(user_id)}", file=sys.stderr)
    failed = not results or any(one.problem for one in results)
    return exit_codes.INTERNAL_ERROR if failed else exit_codes.CLEAN


def dry_run(settings: Settings, routes_file: Path | None, *, as_json: bool) -> int:
    """What waits, and whom it would go to. Raises SettingsError and NatsError."""
    routes = _routes_of_a_tool(routes_file)
    from alarmdigest.connect.deliver.dry_run import would_be_sent

    connection = connect(settings, "alarmdigest-deliver-dry-run")
    count = 0
    try:
        for one in would_be_sent(connection, settings, routes):
            count += 1
            if as_json:
                write_json(one)
            else:
                where = f"{one['target']}: {one['subject']}" if one["target"] else one["problem"]
                write_line(printable(f"{one['UserID']} -> {where}"))
    finally:
        connection.close()
    if not as_json:
        print(f"{count} would be sent; nothing was", file=sys.stderr)
    return exit_codes.CLEAN


def retry_dead(settings: Settings, routes_file: Path | None, *, as_json: bool) -> int:
    """Send dead letters again; 1 where some failed again. Raises SettingsError and NatsError."""
    routes = _routes_of_a_tool(routes_file)
    from alarmdigest.connect.deliver.retry import retry

    connection = connect(settings, "alarmdigest-deliver-retry")
    sent = failed = 0
    try:
        for one in retry(connection, settings, routes):
            sent += not one.problem
            failed += bool(one.problem)
            if as_json:
                write_json(
                    {
                        "UserID": one.user_id,
                        "target": one.target,
                        "sent": not one.problem,
                        "problem": one.problem,
                    }
                )
            else:
                what = f"failed again: {one.problem}" if one.problem else "sent"
                write_line(printable(f"{one.user_id} -> {one.target or '(no target)'}: {what}"))
    finally:
        connection.close()
    if not as_json:
        print(f"{sent} sent, {failed} failed again and kept", file=sys.stderr)
    return exit_codes.INTERNAL_ERROR if failed else exit_codes.CLEAN


def _routes_of_a_tool(routes_file: Path | None) -> Routes:
    """Raises SettingsError."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED_SIGNALS)
    _need_libraries()
    from alarmdigest.connect.deliver.routes_file import read_routes

    return read_routes(routes_file)


def _need_libraries() -> None:
    """Raises SettingsError."""
    try:
        import apprise
        import jinja2
    except ImportError as error:
        raise SettingsError(
            f"deliver needs {error.name}: pip install 'alarmdigest[deliver]'"
        ) from error
    del apprise, jinja2
