"""How much may be under way: everything, or, after a failure, little and after a pause.

A stream that refuses one message mostly refuses all. So after a publish error (of a digest, and not
of one that alone is at fault, such as one too large) nothing more is sent for a while, then one
message is tried: what seems to last after 1, 2, 4 … 30 s, what may pass every 0.3 s, and after 40
attempts every second. Each read that confirms something doubles the limit; once nothing waits that
has failed, there is none.
"""

from __future__ import annotations

import time

from alarmdigest.pipeline.inflight.blocked import PublishBlocked

FIRST_PAUSE_S = 1.0
PASSING_PAUSE_S = 0.3
# An election takes some ten seconds at most; what lasts longer than so many attempts is tried less
# often.
PASSING_ATTEMPTS = 40
LONG_PASSING_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
UNLIMITED = 1 << 30


class Pace:
    """``blocked_reason`` is why digests cannot be published, or one of them; None when all is well.
    ``most`` is how many messages may be under way."""

    def __init__(self) -> None:
        self.blocked_reason: str | None = None
        self.most = UNLIMITED
        self._pausing = False
        self._pause_s = FIRST_PAUSE_S
        self._attempts = 0  # since something passing failed first
        self._retry_at: float | None = None

    @property
    def may_send(self) -> bool:
        return not self._pausing

    @property
    def seconds_to_retry(self) -> float | None:
        """Until what failed should be tried again, 0 when that is due; None if nothing did."""
        return None if self._retry_at is None else max(0.0, self._retry_at - time.monotonic())

    def on_blocked(self, blocked: PublishBlocked) -> None:
        """A message could not be published, or a stream cannot be used."""
        if blocked.concerns == "digests":
            self.blocked_reason = blocked.reason
        if not blocked.only_this_one:
            self.most = 1
            self._pausing = True
        if blocked.passing:
            few = self._attempts < PASSING_ATTEMPTS
            retry_at = time.monotonic() + (PASSING_PAUSE_S if few else LONG_PASSING_PAUSE_S)
            self._attempts += self._retry_at is None
            # Also where one that fails for longer waits already.
            self._retry_at = min(retry_at, self._retry_at or retry_at)
        elif self._retry_at is None:  # else it is one of many that were under way together
            self._retry_at = time.monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def on_retry(self) -> None:
        """The pause is over; whoever fails again begins another."""
        self._retry_at = None
        self._pausing = False

    def on_streams_found(self) -> None:
        """The streams are there: whatever fails by itself, the rest may be sent."""
        self._pausing = False

    def on_confirmed(self, *, all_is_well: bool) -> None:
        """Some message was confirmed; ``all_is_well`` when none waits to be sent again."""
        self._pausing = False
        self.most = min(self.most * 2, UNLIMITED)
        if all_is_well:
            self.reset()

    def reset(self) -> None:
        """Nothing has failed that is not mended: no limit, and nothing to wait for."""
        self._pausing = False
        self.blocked_reason = self._retry_at = None
        self.most = UNLIMITED
        self._pause_s = FIRST_PAUSE_S
        self._attempts = 0
