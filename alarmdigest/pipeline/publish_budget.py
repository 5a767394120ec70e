"""Which rejected messages are published in core mode, where a flood of them must not hold us up.

Publishing one costs as much as ten good messages, and the server cuts off who is slow. So beyond so
many at once, and so many a second, one in a hundred is published: enough to see what a broken
publisher sends.
"""

from __future__ import annotations

import logging
import time

from alarmdigest.runtime.logs import LimitedLog

log = logging.getLogger(__name__)

PUBLISHED_AT_ONCE = 5_000
PUBLISHED_A_SECOND = 1_000
SAMPLED_ONE_IN = 100


class PublishBudget:
    """A token bucket with samples beyond it."""

    def __init__(self) -> None:
        self._tokens = float(PUBLISHED_AT_ONCE)
        self._filled_at = time.monotonic()
        self._beyond = 0
        self._reserved = False
        self._too_many = LimitedLog(log, logging.WARNING)

    def reserve(self) -> bool:
        """Whether one may be published: the permission is kept for the next ``take``, however often
        this is asked before."""
        self._reserved = self._reserved or self._grant()
        return self._reserved

    def take(self) -> bool:
        """Whether one may be published, which is one less for the others."""
        granted = self._reserved or self._grant()
        self._reserved = False
        return granted

    def _grant(self) -> bool:
        if self._tokens < 1.0:
            now = time.monotonic()
            self._tokens += (now - self._filled_at) * PUBLISHED_A_SECOND
            self._tokens = min(self._tokens, PUBLISHED_AT_ONCE)
            self._filled_at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return True
        self._beyond += 1
        if self._beyond % SAMPLED_ONE_IN:
            return False
        self._too_many(
            "too many messages are rejected: all are counted, not all published",
            published_one_in=SAMPLED_ONE_IN,
        )
        return True

    def log_what_was_left_out(self, *, at_once: bool = False) -> None:
        """Call it now and then, and ``at_once`` in the end."""
        self._too_many.catch_up(at_once=at_once)
