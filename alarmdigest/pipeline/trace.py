"""Following one user's messages through the service: a line in the log for each step.

Off, it costs next to nothing. On, it costs that user's worker some ten microseconds for each of
that user's messages, but for those whose lines would be too many: they are merged like any other,
and counted. It is the only thing that writes ids of users and alarms into the log.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, NamedTuple

from alarmdigest.runtime.logs import Fields, Untrusted

log = logging.getLogger(__name__)

LINES_AT_ONCE = 200
LINES_A_SECOND = 50


class TracedPlace(NamedTuple):
    """Of a traced message in a worker's batch: the offset of its record, and where the stream has
    the message: its sequence, its time in ns since 1970; 0 without a stream."""

    sequence: int
    stored_ns: int
    clamped: bool
    offset: int


class Trace:
    """Any thread may use it. ``user`` is the UserID that is followed, in UTF-8; None: nobody."""

    def __init__(self) -> None:
        self.user: bytes | None = None
        self._until = 0.0
        self._lock = threading.Lock()
        self._tokens = float(LINES_AT_ONCE)
        self._filled_at = time.monotonic()
        self._left_out = 0

    @property
    def is_logged(self) -> bool:
        """Whether the log's level lets its lines through."""
        return log.isEnabledFor(logging.INFO)

    @property
    def seconds_left(self) -> float | None:
        """None where nobody is traced."""
        with self._lock:
            return max(0.0, self._until - time.monotonic()) if self.user is not None else None

    def begin(self, user: bytes, seconds: float) -> None:
        """Follow this user and nobody else, for so long."""
        with self._lock:
            self.user, self._until = user, time.monotonic() + seconds
        log.info("trace begins%s", Fields(user=_untrusted(user), seconds=seconds))

    def end(self) -> None:
        with self._lock:
            was, self.user, left_out, self._left_out = self.user, None, self._left_out, 0
        if was is not None:
            log.info("trace ends%s", Fields(user=_untrusted(was), lines_left_out=left_out))

    def end_when_over(self) -> None:
        """Call it now and then."""
        if self.user is None:
            return
        with self._lock:
            over = time.monotonic() > self._until
        if over:
            self.end()

    def has_room(self) -> bool:
        """Whether a line would be written; if not, it counts as left out."""
        with self._lock:
            self._fill()
            if self._tokens >= 1.0:
                return True
            self._left_out += 1
            return False

    def _fill(self) -> None:
        now = time.monotonic()
        self._tokens += (now - self._filled_at) * LINES_A_SECOND
        self._tokens = min(self._tokens, LINES_AT_ONCE)
        self._filled_at = now

    def line(self, step: str, **fields: Any) -> None:
        """A step of the user's messages, unless there are too many."""
        with self._lock:
            self._fill()
            if self._tokens < 1.0:
                self._left_out += 1
                return
            self._tokens -= 1.0
            left_out, self._left_out = self._left_out, 0
        if left_out:
            log.info("trace%s", Fields(lines_left_out=left_out))
        log.info("trace: %s%s", step, Fields(**fields))


def _untrusted(user: bytes) -> Untrusted:
    return Untrusted(user.decode("utf-8", "replace"))
