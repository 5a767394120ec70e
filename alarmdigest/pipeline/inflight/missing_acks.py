"""Decides, when PubAcks do not come, whether messages that were sent may be lost and the streams
must be searched for them."""

from __future__ import annotations

import time
from collections.abc import Callable

from alarmdigest.pipeline.inflight.confirmer import Confirmer
from alarmdigest.pipeline.inflight.stream_lookup import StreamLookup

# Answers come within milliseconds. After so long without any we ask who leads the streams.
FIRST_ASK_AFTER_S = 0.5
ASK_PAUSE_S = 0.3
ASK_FOR_S = 1.0
# A stream answers in order, but for moments. What later messages have overtaken for so long was
# lost on the way.
OVERTAKEN_FOR_S = 0.3
LOOK_PAUSE_S = 0.1
# Where the streams have a leader, and it is the same one, what is not answered for so long was lost
# on the way to it: there was another one meanwhile.
FIRST_LOST_AFTER_S = 1.5
LONGEST_LOST_AFTER_S = 12.0
# After so long without an answer somebody ought to know.
ACK_TIMEOUT_S = 5.0


class AckTimeout(Exception):
    """Nothing was confirmed for ACK_TIMEOUT_S seconds; says what to look at."""


class MissingAcks:
    """Used by the publisher, which reports confirmations, refusals, full look-ups, and what is sent
    while nothing was under way."""

    def __init__(self, confirmer: Confirmer, go_on: Callable[[], bool]) -> None:
        """Questions to the server end as soon as ``go_on()`` is false."""
        self._confirmer = confirmer
        self._go_on = go_on
        self._progress_at = time.monotonic()
        self._ask_at = 0.0
        self._lost_after_s = FIRST_LOST_AFTER_S
        self._first = _Waiting()
        self._overtaken = _Waiting()
        self._overtaken_for_s = OVERTAKEN_FOR_S
        self._overtaken_at = 0.0
        self._looked_at = 0.0

    def restart_timer(self, *, confirmed: bool = False) -> None:
        """Call it when the server has answered, or when nothing was under way before what is sent
        now; ``confirmed``: it was an answer that confirms something."""
        self._progress_at = time.monotonic()
        if confirmed:
            self._lost_after_s = FIRST_LOST_AFTER_S

    def lookup_reason(self) -> str:
        """Why the streams must be looked at for what they hold; empty without a reason.

        Raises AckTimeout, which is a reason, too, and NatsError where a stream cannot tell.
        """
        now = time.monotonic()
        lookup = self._confirmer.lookup
        if lookup is None or self._confirmer.under_way == 0:
            return ""
        if now - self._looked_at > LOOK_PAUSE_S and self._one_is_overdue(lookup, now):
            return "some answers do not come: looking up what the output streams hold"
        if now - self._progress_at > ACK_TIMEOUT_S:
            self._progress_at = now
            streams = " and ".join(lookup.streams)
            raise AckTimeout(
                f"no confirmation within {ACK_TIMEOUT_S:g} s: "
                f"do the streams {streams} capture their subjects?"
            )
        if (
            now - self._progress_at > FIRST_ASK_AFTER_S
            and now >= self._ask_at
            and self._are_lost_on_the_way(lookup)
        ):
            return "answers do not come: looking up what the output streams hold"
        return ""

    def go_on_briefly(self) -> Callable[[], bool]:
        """Whether to go on with a question that others wait for."""
        deadline = time.monotonic() + ASK_FOR_S
        return lambda: self._go_on() and time.monotonic() < deadline

    def _are_lost_on_the_way(self, lookup: StreamLookup) -> bool:
        try:
            lost = lookup.lost_track(self.go_on_briefly())
        finally:
            self._ask_at = time.monotonic() + ASK_PAUSE_S
        if time.monotonic() - self._progress_at > self._lost_after_s:
            # What is sent again for nothing makes a slow server slower.
            self._lost_after_s = min(self._lost_after_s * 2, LONGEST_LOST_AFTER_S)
            return True
        return lost

    def _one_is_overdue(self, lookup: StreamLookup, now: float) -> bool:
        """While other messages are confirmed, nothing else tells that one was lost: a cluster had
        no leader when it was sent."""
        self._looked_at = now
        first, overtaken = lookup.first_under_way()
        if self._overtaken.seconds(overtaken, now) > self._overtaken_for_s:
            # What is sent again for nothing makes a slow server slower.
            self._overtaken_for_s = min(2 * self._overtaken_for_s, LONGEST_LOST_AFTER_S)
            self._overtaken_at = now
            return True
        if now - self._overtaken_at > 2 * LONGEST_LOST_AFTER_S:
            self._overtaken_for_s = OVERTAKEN_FOR_S
        return self._first.seconds(first, now) > LONGEST_LOST_AFTER_S


class _Waiting:
    """For how long the same message is the first of its sort."""

    def __init__(self) -> None:
        self._message = 0
        self._since = 0.0

    def seconds(self, message: int, now: float) -> float:
        """``message`` identifies it; 0: there is none."""
        if message != self._message:
            self._message, self._since = message, now
        return now - self._since if message else 0.0
