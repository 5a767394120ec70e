"""Reads the file of ``--routes``; ``deploy/deliver.toml`` has every key with a comment.

All of it is checked at once, and each mistake is one line that never shows a URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from alarmdigest.connect.deliver.addresses import USER_ID, UrlTemplate
from alarmdigest.connect.deliver.message import CRITICAL, WARNING
from alarmdigest.connect.deliver.rates import rate
from alarmdigest.connect.deliver.routes import Route, Routes, Target, UserEntry
from alarmdigest.connect.deliver.sender import check
from alarmdigest.connect.toml_tables import boolean, of_text, read_document, read_table, text, texts
from alarmdigest.runtime import pipes
from alarmdigest.settings import SettingsError, duration
from alarmdigest.settings.readers import (
    Duration,
    age_limit,
    size_limit,
    stream_name,
    subject,
    token,
)

FORMS = ("html", "text", "short")
MAX_SECRET_BYTES = 64 * 1024

Reader = Callable[[Any], Any]


def _number(least: int, most: int) -> Reader:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{value!r:.40} is no whole number from {least} to {most}")
        return value

    return read


def _zone(value: Any) -> str:
    try:
        return ZoneInfo(text(value)).key
    except (OSError, ValueError, LookupError):
        raise ValueError(
            f"{value!r:.60} is no time zone; write it like Europe/Berlin or UTC"
        ) from None


def _one_of(*words: str) -> Reader:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{value!r:.40} is none of {', '.join(words)}")
        return str(value)

    return read


def _template(value: Any) -> UrlTemplate:
    return UrlTemplate(text(value))


def _some(value: Any) -> tuple[str, ...]:
    if not (found := texts(value)):
        raise ValueError("the list is empty")
    return found


_worst = _one_of(WARNING, CRITICAL)
_TARGET: Mapping[str, Reader] = {
    "url": _template,
    "url_file": text,
    "url_env": text,
    "format": _one_of(*FORMS),
    "rate": of_text(rate),
    "worst": _worst,
    "unsubscribe": _template,
}
_ROUTE: Mapping[str, Reader] = {
    "users": _some,
    "targets": _some,
    "worst": _worst,
    "zone": _zone,
    "continue": boolean,
}


def _one_address(value: Any) -> str:
    """What stands for a user in a URL: an empty one would be somebody else, and several count as
    one that is taken by all or none."""
    found = text(value)
    if not found or re.search(r"[\s,;]", found):
        raise ValueError(f"{found!r:.80} is not one address: empty, or with a blank or a comma")
    return found


def _ack_wait(value: str) -> Duration:
    found = duration(value)
    if not 1 <= found.seconds <= 3600:
        raise ValueError(f"{value!r:.80} is not from 1s to 1h")
    return found


_PLAIN: Mapping[str, Mapping[str, Reader]] = {
    "consumer": {
        "name": of_text(token),
        "most_held": _number(1, 1_000_000),
        "part_wait": of_text(duration),
        "ack_wait": of_text(_ack_wait),
    },
    "sending": {
        "threads": _number(1, 256),
        "per_endpoint": _number(1, 256),
        "attempts": _number(1, 1000),
        **dict.fromkeys(
            ("give_up_after", "first_pause", "longest_pause", "hangs_after"), of_text(duration)
        ),
    },
    "storage": {
        "dead_subject": of_text(subject),
        **dict.fromkeys(
            ("dead_stream", "delivered_bucket", "state_bucket", "details_bucket"),
            of_text(stream_name),
        ),
        **dict.fromkeys(("dead_max_age", "delivered_max_age", "state_max_age"), of_text(age_limit)),
        "dead_max_bytes": of_text(size_limit),
        "lease": of_text(age_limit),
    },
    "messages": {
        "templates": of_text(Path),
        "most_rows": _number(1, 10_000),
        "zone": _zone,
    },
}


def read_routes(file: Path | None) -> Routes:
    """Raises SettingsError, with a line for each mistake."""
    if file is None:
        raise SettingsError(
            "deliver needs to know who gets what: name a file with --routes or "
            "ALARMDIGEST_DELIVER_ROUTES; deploy/deliver.toml has all of it"
        )
    return _Reading(file).routes()


class _Reading:
    """One file, and what is wrong with it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._problems: list[str] = []

    def routes(self) -> Routes:
        tables = read_document(self._file)
        found = Routes(file=self._file)
        targets = self._targets(tables.pop("targets", {}))
        users = self._users(tables.pop("users", {}))
        routes = self._routes(tables.pop("routes", []), targets)
        for title, table in tables.items():
            if title not in _PLAIN or not isinstance(table, dict):
                known = ", ".join((*_PLAIN, "targets", "users", "routes"))
                self._problem(f"there is no table [{title}]; there are {known}")
                continue
            values = self._table(f"[{title}]", table, _PLAIN[title])
            found = replace(found, **{title: replace(getattr(found, title), **values)})
        if not self._problems:
            self._contradictions(found, routes)
        if self._problems:
            raise SettingsError(*self._problems)
        return replace(
            found,
            targets={name: one for name, one in targets.items() if one is not None},
            users=users,
            routes=routes,
        )

    def _problem(self, text: str) -> None:
        self._problems.append(f"{self._file}: {text}")

    def _table(self, where: str, table: Any, readers: Mapping[str, Reader]) -> dict[str, Any]:
        if not isinstance(table, dict):
            self._problem(f"{where} is no table")
            return {}
        values, problems = read_table(f"{self._file}: {where}", table, readers)
        self._problems += problems
        return values

    def _named(self, title: str, tables: Any) -> Mapping[str, Any]:
        if isinstance(tables, dict):
            return tables
        self._problem(f"[{title}] is no table: write [{title}.NAME]")
        return {}

    def _targets(self, tables: Any) -> dict[str, Target | None]:
        """None for those that cannot be used."""
        named = self._named("targets", tables)
        return {name: self._target(name, table) for name, table in named.items()}

    def _target(self, name: str, table: Any) -> Target | None:
        where, before = f"[targets.{name}]", len(self._problems)
        values = self._table(where, table, _TARGET)
        if len(self._problems) > before:
            return None
        sources = [key for key in ("url", "url_file", "url_env") if key in values]
        if len(sources) != 1:
            self._problem(f"{where} needs one of url, url_file and url_env")
            return None
        try:
            url = values["url"] if "url" in values else UrlTemplate(_secret(sources[0], values))
            target = Target(
                name,
                url,
                form=values.get("format", "html" if url.scheme.startswith("mailto") else "text"),
                rate=values.get("rate"),
                worst=values.get("worst", ""),
                unsubscribe=values.get("unsubscribe"),
            )
            problem = check(url).problem
        except ValueError as error:
            problem = str(error)
        if problem:
            self._problem(f"{where} {sources[0]}: {problem}")
            return None
        return target

    def _users(self, tables: Any) -> dict[str, UserEntry]:
        users = {}
        for name, table in self._named("users", tables).items():
            where = f'[users."{name}"]'
            names = table if isinstance(table, dict) else {}
            readers = {key: _one_address for key in names if re.fullmatch(r"[A-Za-z_]\w*", key)}
            readers.pop(USER_ID, None)
            values = self._table(where, table, {**readers, "zone": _zone})
            zone = values.pop("zone", "")
            users[name] = UserEntry(values, zone)
        return users

    def _routes(self, tables: Any, targets: Mapping[str, Target | None]) -> list[Route]:
        if not isinstance(tables, list):
            self._problem("[routes] is a list: write [[routes]]")
            return []
        if not tables:
            self._problem("there are no [[routes]]: nobody would get anything")
        routes = []
        for number, table in enumerate(tables, 1):
            where = f"[[routes]] number {number}"
            before = len(self._problems)
            values = self._table(where, table, _ROUTE)
            for key in ("users", "targets"):
                if key not in values and len(self._problems) == before:
                    self._problem(f"{where} has no {key}")
            for name in values.get("targets", ()):
                if name not in targets:
                    known = ", ".join(targets) or "none"
                    self._problem(f"{where} targets: there is no target {name}; there are {known}")
            routes.append(
                Route(
                    users=values.get("users", ()),
                    targets=values.get("targets", ()),
                    worst=values.get("worst", ""),
                    zone=values.get("zone", ""),
                    go_on=values.get("continue", False),
                )
            )
        return routes

    def _contradictions(self, found: Routes, routes: list[Route]) -> None:
        if not found.consumer.name:
            self._problem("[consumer] name is empty")
        if found.sending.first_pause > found.sending.longest_pause:
            self._problem("[sending] first_pause is longer than longest_pause")
        if found.storage.lease < 10**9:
            self._problem("[storage] lease is shorter than 1s")
        for number, route in enumerate(routes[:-1], 1):
            if "*" in route.users and not route.go_on:
                self._problem(
                    f"[[routes]] number {number} takes everybody, so those behind it are never "
                    "reached: put it last, or give it continue = true"
                )
                break


def _secret(source: str, values: Mapping[str, Any]) -> str:
    """Raises ValueError."""
    name = values[source]
    if source == "url_env":
        if not (found := os.environ.get(name, "")):
            raise ValueError(f"the variable {name} is not set")
        return found
    try:
        return pipes.read(Path(name), MAX_SECRET_BYTES).decode().strip()
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not text in UTF-8") from None
