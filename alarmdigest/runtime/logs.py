"""Logging: one line per event on stderr, UTC, as text or JSON; and repetition at a limited rate.

What belongs to an event is given as ``Fields``: ``key=value`` in text, members of the object in
JSON.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from datetime import datetime, timezone
from typing import Any

from alarmdigest.runtime import log_writer
from alarmdigest.runtime.text import printable


def _utc(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Untrusted(str):
    """A text that somebody else has chosen: quoted, so that it cannot look like another field."""


class Fields:
    """Named values of one event, as an argument for a ``%s`` that stands right behind a word:
    ``log.info("connected%s", Fields(name=name))``. Floats are shown with two digits in text.
    """

    def __init__(self, **values: Any) -> None:
        self.values = values

    def __str__(self) -> str:
        return "".join(f" {name}={_shown(value)}" for name, value in self.values.items())


def _shown(value: Any) -> str:
    if isinstance(value, Untrusted):
        return ascii(str(value))
    if isinstance(value, float):
        return f"{value:.2f}"
    return "none" if value is None else str(value)


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO  listener connected server=nats://…``

    A message is one line, whatever a server or a file has put into it.
    """

    def format(self, record: logging.LogRecord) -> str:
        message = printable(record.getMessage())
        line = f"{_utc(record)} {record.levelname:<7} {record.threadName} {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: ts, level, thread, logger, msg, the fields, and the traceback if any.

    A field that is called like one of ours is written with ``_`` behind its name.
    """

    def format(self, record: logging.LogRecord) -> str:
        message, fields = _apart(record)
        members: dict[str, str | int | float | None] = {
            "ts": _utc(record),
            "level": record.levelname.lower(),
            "thread": record.threadName,
            "logger": record.name,
            "msg": message,
        }
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        for name, value in fields.items():
            members[f"{name}_" if name in _OWN_MEMBERS else name] = _plain(value)
        return json.dumps(members)


_OWN_MEMBERS = frozenset({"ts", "level", "thread", "logger", "msg", "traceback"})


def _apart(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The message without its fields, and these."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    given = [one for one in arguments if isinstance(one, Fields)]
    if not given:
        return record.getMessage(), {}
    words = tuple("" if isinstance(one, Fields) else one for one in arguments)
    fields = {name: value for one in given for name, value in one.values.items()}
    return (str(record.msg) % words).rstrip(" :;"), fields


def _plain(value: Any) -> str | int | float | None:
    if value is None or isinstance(value, (str, int)):
        return value
    # JSON knows neither NaN nor infinity.
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def configure(level: str, form: str) -> None:
    """Send all logging to stderr, through the thread for it if there is one. ``form`` is ``text``
    or ``json``."""
    writer = log_writer.current()
    handler = writer or logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    if writer is None:
        logging.basicConfig(handlers=[handler], force=True)
    else:
        writer.only_records = form == "json"
    logging.getLogger().setLevel(level.upper())


class LimitedLog:
    """Logs a message that may repeat quickly, at most once per interval, with the number left out.

    ``about`` tells apart what the same message is about, and each is limited by itself. Used by
    one thread.
    """

    def __init__(self, log: logging.Logger, level: int, *, interval_s: float = 5.0) -> None:
        self._log = log
        self._level = level
        self._interval_s = interval_s
        self._next: dict[tuple[str, str], float] = {}
        self._left_out: dict[tuple[str, str], int] = {}

    def __call__(self, message: str, about: str = "", /, **fields: Any) -> None:
        now, key = time.monotonic(), (message, about)
        if now < self._next.get(key, 0.0):
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return
        self._next[key] = now + self._interval_s
        left_out = self._left_out.pop(key, 0)
        if left_out:
            fields["and_more_since_last"] = left_out
        self._log.log(self._level, "%s%s", message, Fields(**fields))

    def catch_up(self, *, at_once: bool = False) -> None:
        """Say how many were left out of what has not come again since; call it now and then."""
        if not self._left_out:
            return
        now = time.monotonic()
        for key in [one for one in self._left_out if at_once or now >= self._next[one]]:
            left_out = self._left_out.pop(key)
            self._next[key] = now + self._interval_s
            self._log.log(self._level, "%s%s", key[0], Fields(and_more_since_last=left_out))
