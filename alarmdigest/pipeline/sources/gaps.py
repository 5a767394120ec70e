"""Messages that the stream deleted before we read them, while we read it.

A consumer skips them silently; only the sequences show the gap. The stream's first message tells
why they are gone: messages before it were removed by a limit or a purge, messages after it were
deleted one by one. So the stream is asked once for all gaps found in a period.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from alarmdigest.runtime.incidents import incidents
from alarmdigest.runtime.logs import Fields

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 2.0
REPORT_INTERVAL_S = 5.0
SINGLY = "deleted singly, or by a limit per subject"


class Gap(NamedTuple):
    """So many messages are missing; the sequences of the first and the last of them."""

    first: int
    last: int
    missing: int


class Gaps:
    """Reports the gaps of one stream, at a limited rate. ``expired`` counts the messages that lay
    before the stream's first one when it was asked, those that a limit or a purge removed."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._gap: Gap | None = None
        self._asked_at: float | None = None
        self._report_at = 0.0
        self.expired = 0

    def on_read(self, gap: tuple[int, int, int] | None) -> bool:
        """Call it after every read, with what the router found missing. Whether the stream is now
        to be asked for its first sequence: the answer goes to ``report``."""
        if gap is not None:
            found = Gap(*gap)
            before = self._gap or found._replace(missing=0)
            self._gap = Gap(before.first, found.last, before.missing + found.missing)
        if self._gap is None:
            return False
        now = time.monotonic()
        if self._asked_at is None:
            if now < self._report_at:
                return False
            self._asked_at = now
            return True
        if now - self._asked_at > ANSWER_WITHIN_S:
            self.report(None)
        return False

    def report(self, stream_begins_at: int | None) -> None:
        """Report what was found missing; None: no answer, and none will come any more."""
        gap, self._gap, self._asked_at = self._gap, None, None
        if gap is None:
            return
        self._report_at = time.monotonic() + REPORT_INTERVAL_S
        why = "unknown"
        if stream_begins_at is not None:
            before = max(0, min(gap.last + 1, stream_begins_at) - gap.first)
            self.expired += min(gap.missing, before)
            why = "a limit of the stream, or a purge" if before else SINGLY
            if 0 < before < gap.missing:
                why += f"; and {SINGLY}"
        incidents.record(
            "stream_deleted",
            f"{self._stream}: messages {gap.first} to {gap.last}: {gap.missing} were deleted "
            f"before we read them ({why})",
            gap.missing,
        )
        log.error(
            "messages were deleted before we read them, while we read the stream:%s",
            Fields(
                stream=self._stream,
                first=gap.first,
                last=gap.last,
                missing=gap.missing,
                stream_begins_at=stream_begins_at,
                why=why,
            ),
        )
