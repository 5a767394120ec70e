"""The command ``check-config``: which settings count, and who has set them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any

from alarmdigest.cli.commands.check_server import check_server
from alarmdigest.cli.commands.check_store import check_store
from alarmdigest.cli.terminal import write_line
from alarmdigest.nats.auth import collecting_problems
from alarmdigest.nats.url import login_in, redacted
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import SECRETS, ResolvedSettings, Settings
from alarmdigest.settings.contradictions import unheeded
from alarmdigest.settings.options import default_of

MASK = "********"


def check_config(resolved: ResolvedSettings, *, as_json: bool) -> int:
    """Report on stdout, and what is wrong or unwise on stderr; the exit code.

    Looks at the server and the store, too, if they can be reached and nothing is wrong before that.
    """
    warnings, problems = list(resolved.warnings), list(resolved.problems)
    warnings += unheeded(resolved.settings)
    with collecting_problems(problems):
        warnings += resolved.settings.login.check()
    server = None if problems else check_server(resolved.settings)
    store = None if problems else check_store(resolved.settings)
    if server is not None:
        warnings += server.warnings
        problems += server.problems
        if server.reason and resolved.settings.server and not as_json:
            print(f"alarmdigest: no server was looked at: {server.reason}", file=sys.stderr)
    if store is not None:
        problems += store.problems
        if store.reason and not as_json:
            print(f"alarmdigest: the store was not looked at: {store.reason}", file=sys.stderr)
    problems = list(dict.fromkeys(problems))  # one cause may concern several streams
    for line in (*(f"warning: {one}" for one in warnings), *problems):
        print(f"alarmdigest: {printable(line)}", file=sys.stderr)
    if problems or server is None or store is None:
        return exit_codes.USAGE
    if server.server and not warnings and not as_json:
        print(f"alarmdigest: all is well, also with {redacted(server.server)}", file=sys.stderr)
    rows = [(item.name, *_shown(item, resolved)) for item in fields(Settings)]
    if as_json:
        found = {name: {"value": value, "origin": origin} for name, value, origin in rows}
        looked_at = {"url": server.server or None, "reason": server.reason or None}
        told = {
            "settings": found,
            "server": looked_at,
            "store": {"place": resolved.settings.place_of_state, "reason": store.reason or None},
            "warnings": warnings,
        }
        print(json.dumps(told, indent=2))
        return exit_codes.CLEAN
    rows = [(name, printable(value), printable(origin)) for name, value, origin in rows]
    name_width = max(len(name) for name, _, _ in rows)
    value_width = min(max(len(value) for _, value, _ in rows), 40)
    for name, value, origin in rows:
        write_line(f"{name:<{name_width}}  {value:<{value_width}}  {origin}")
    return exit_codes.CLEAN


def _shown(item: Field[Any], resolved: ResolvedSettings) -> tuple[str, str]:
    """Value and origin: as it was written, so that it can be written so again, but no secret."""
    found = [*_in_urls(item.name, resolved), *_given(item, resolved)]
    if not found:
        return default_of(item), "default"
    # More than one where some of the servers have their own login.
    values, origins = (tuple(dict.fromkeys(column)) for column in zip(*found, strict=True))
    return ",".join(values), ", ".join(origins)


def _given(item: Field[Any], resolved: ResolvedSettings) -> Iterator[tuple[str, str]]:
    given = resolved.given.get(item.name)
    if given is None:
        return
    if item.name in SECRETS:
        yield MASK, given.origin
    elif item.name == "server":
        yield ",".join(redacted(url) for url in resolved.settings.server), given.origin
    else:
        yield given.text, given.origin


def _in_urls(name: str, resolved: ResolvedSettings) -> Iterator[tuple[str, str]]:
    """What the servers' URLs say about the login, which goes before everything else there."""
    for url in resolved.settings.server:
        user, password = login_in(url)
        in_url = {
            "user": user if password else "",
            "password": MASK if password else "",
            "token": MASK if user and not password else "",
        }
        if found := in_url.get(name):
            yield found, resolved.given["server"].origin
