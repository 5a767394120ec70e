"""Logging: one line per event on stderr, UTC, as text or JSON; and repetition at a limited rate."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import datetime, timezone
from typing import Any


def _utc(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z INFO  nats-client connected server=nats://…``"""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_utc(record)} {record.levelname:<7} {record.threadName} {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, thread, logger, message, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "thread": record.threadName,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def configure(level: str, form: str) -> None:
    """Send all logging to stderr. ``form`` is ``text`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class LimitedLog:
    """Logs a message that may repeat quickly, at most once per interval, with the number left out.

    Used by one thread. Fields are written as ``key=value`` behind the message.
    """

    def __init__(self, log: logging.Logger, level: int, *, interval_s: float = 5.0) -> None:
        self._log = log
        self._level = level
        self._interval_s = interval_s
        self._next: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def __call__(self, message: str, **fields: Any) -> None:
        now = time.monotonic()
        if now < self._next.get(message, 0.0):
            self._left_out[message] = self._left_out.get(message, 0) + 1
            return
        self._next[message] = now + self._interval_s
        left_out = self._left_out.pop(message, 0)
        if left_out:
            fields["and_more_since_last"] = left_out
        text = "".join(f" {key}={value}" for key, value in fields.items())
        self._log.log(self._level, "%s%s", message, text)

    def catch_up(self, *, at_once: bool = False) -> None:
        """Say how many were left out of what has not come again since; call it now and then."""
        if not self._left_out:
            return
        now = time.monotonic()
        for message in [one for one in self._left_out if at_once or now >= self._next[one]]:
            left_out = self._left_out.pop(message)
            self._next[message] = now + self._interval_s
            self._log.log(self._level, "%s and_more_since_last=%d", message, left_out)
