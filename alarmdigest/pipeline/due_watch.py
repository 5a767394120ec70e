"""Telling who became due: packed lines from the workers to whoever publishes them.

Off, which it is unless somebody asks, it costs next to nothing. What is noted is bounded: whoever
is told too much at once is told that something was left out, and asks for a list instead.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

# Of packed lines that wait for being published: some 100,000 users.
MAX_WAITING_BYTES = 4 * 1024 * 1024


class DueWatch:
    """Any thread may use it. ``on`` is whether anybody wants to be told."""

    def __init__(self) -> None:
        self.on = False
        #: Another one after each time that nobody was told: who knows the old one has missed news.
        self.id = ""
        self.on_news: Callable[[], None] = lambda: None
        self._until = 0.0
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._waiting_bytes = 0
        self._left_out = False

    def begin(self, seconds: float) -> str:
        """Tell for so long from now on, or longer where more was asked for before; the id."""
        with self._lock:
            if not self.on:
                self.id = secrets.token_hex(8)
                self._drop()
            self._until = max(self._until, time.monotonic() + seconds)
            self.on = True
            return self.id

    def end_when_over(self) -> None:
        """Call it now and then."""
        if self.on and time.monotonic() > self._until:
            with self._lock:
                if time.monotonic() > self._until:
                    self.on = False
                    self._drop()

    def offer(self, lines: bytes) -> None:
        """From a worker: packed lines (ext/state/due.pxd)."""
        with self._lock:
            if not self.on:
                return
            if self._waiting_bytes + len(lines) > MAX_WAITING_BYTES:
                self._left_out = True
            else:
                self._lines.append(lines)
                self._waiting_bytes += len(lines)
        self.on_news()

    def take(self) -> tuple[list[bytes], bool]:
        """What was offered since, and whether something was left out."""
        with self._lock:
            taken = self._lines, self._left_out
            self._drop()
            return taken

    def _drop(self) -> None:
        self._lines, self._waiting_bytes, self._left_out = [], 0, False
