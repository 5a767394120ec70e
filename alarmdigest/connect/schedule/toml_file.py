"""Schedules as a TOML file: [default], and a table [users."ada"] for each user."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from alarmdigest.connect.schedule.bucket import EVERYBODY
from alarmdigest.connect.schedule.entries import Entry
from alarmdigest.connect.schedule.schedule import (
    KEYS,
    UTC,
    paused_until_text,
    read_paused_until,
    read_schedule,
    written,
)
from alarmdigest.connect.toml_tables import read_document
from alarmdigest.settings import SettingsError
from alarmdigest.wire.messages import MAX_ID_BYTES

# A million users with a schedule each.
MAX_FILE_BYTES = 512 * 1024 * 1024


def read_file(file: Path) -> list[Entry]:
    """Raises SettingsError, a line for each problem."""
    document = read_document(file, MAX_FILE_BYTES)
    problems = [
        f'{file}: there is no [{title}]; there are [default] and [users."ID"]'
        for title in document
        if title not in ("default", "users")
    ]
    found: list[Entry] = []
    users = document.get("users", {})
    if not isinstance(users, dict):
        problems.append(f"{file}: users is no table")
        users = {}
    tables: list[tuple[str | None, str, Any]] = []
    if "default" in document:
        tables.append((EVERYBODY, "[default]", document["default"]))
    tables += [(user, f"[users.{_quoted(user)}]", table) for user, table in users.items()]
    for user, title, table in tables:
        try:
            found.append(_entry(user, table))
        except ValueError as error:
            problems += [f"{file}: {title} {problem}" for problem in error.args]
    if problems:
        raise SettingsError(*problems)
    return found


def _entry(user: str | None, table: Any) -> Entry:
    """Raises ValueError, a sentence for each problem."""
    if not isinstance(table, dict):
        raise ValueError("is no table")
    if user is not None and not 1 <= len(user.encode()) <= MAX_ID_BYTES:
        raise ValueError(f"is no UserID: it must have 1 to {MAX_ID_BYTES} bytes")
    fields = {name: value for name, value in table.items() if name != "paused_until"}
    paused = table.get("paused_until")
    if paused is not None and not isinstance(paused, str):
        paused = paused.isoformat() if hasattr(paused, "isoformat") else str(paused)
    schedule = read_schedule(fields) if fields or user is EVERYBODY else None
    zone = schedule.timezone if schedule is not None else UTC
    return Entry(user, schedule, read_paused_until(paused, zone) if paused else 0)


def lines_of(entries: Iterable[Entry]) -> Iterator[str]:
    """What ``read_file`` reads."""
    yield "# Written by `alarmdigest schedule export`, and read by `alarmdigest schedule import`."
    for entry in entries:
        yield ""
        yield "[default]" if entry.user is EVERYBODY else f"[users.{_quoted(entry.user)}]"
        fields: Mapping[str, Any] = written(entry.schedule) if entry.schedule is not None else {}
        for name in KEYS:
            if name in fields:
                yield f"{name} = {_value(fields[name])}"
        if entry.paused_until_ns:
            yield f"paused_until = {_quoted(paused_until_text(entry.paused_until_ns))}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_quoted(one) for one in value)}]"
    return _quoted(value)


def _quoted(text: str) -> str:
    """As a basic string of TOML, which escapes as JSON does, and DEL as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
