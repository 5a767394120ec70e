"""Clocks that may be wrong by years: ours, and those of the servers that stamp a stream."""

from __future__ import annotations

import logging
import time

from alarmdigest._ext import timestamps
from alarmdigest._ext.timestamps import DAY_NS
from alarmdigest.runtime.logs import Fields, LimitedLog

log = logging.getLogger(__name__)

# It lasts until somebody sets a clock right.
REPORT_INTERVAL_S = 600.0


class SteadyClock:
    """Our clock for arrivals in core mode, which does not go along with a step of over a day.

    A host whose clock says 2099 for a moment would otherwise have every cleared alarm forgotten at
    once, and every ChangedAt believed. Instead it goes on from before the step, by the clock that
    counts since the boot. With ``accept`` it goes along, forwards and back.

    ``refused_ns`` is how far our clock is ahead of it (behind: negative), 0 when they agree;
    ``steps`` counts the steps of over a day, gone along with or not.
    """

    def __init__(self, *, accept: bool) -> None:
        self._accept = accept
        self._base_ns = time.time_ns() - _since_boot_ns()
        self._report = LimitedLog(log, logging.ERROR, interval_s=REPORT_INTERVAL_S)
        self.refused_ns = 0
        self.steps = 0

    def now_ns(self) -> int:
        now_ns, since_boot_ns = time.time_ns(), _since_boot_ns()
        steady_ns = self._base_ns + since_boot_ns
        step_ns = now_ns - steady_ns
        if abs(step_ns) <= DAY_NS:
            if self.refused_ns:
                log.info("our clock agrees again with the one that we went on by")
            self.refused_ns = 0
            self._base_ns = now_ns - since_boot_ns
            return now_ns
        if self._accept:
            self.steps += 1
            log.warning("our clock has stepped by over a day, and we go along:%s", _by(step_ns))
            self._base_ns = now_ns - since_boot_ns
            return now_ns
        self.steps += not self.refused_ns
        self.refused_ns = step_ns
        self._report(
            "our clock has stepped by over a day: arrivals go on by the time before it. Set the "
            "clock right; if it is right now, start again with --accept-clock-step;",
            clock=timestamps.to_text(now_ns),
            going_on_at=timestamps.to_text(steady_ns),
        )
        return steady_ns


def _since_boot_ns() -> int:
    """Counts on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _by(step_ns: int) -> Fields:
    return Fields(days=round(step_ns / DAY_NS, 1))


class ArrivalWatch:
    """Says, now and then, that a stream's times have taken the arrival clock ahead of ours."""

    def __init__(self) -> None:
        self._look_at = 0.0
        self._report = LimitedLog(log, logging.WARNING, interval_s=REPORT_INTERVAL_S)

    def check(self, arrival_ns: int) -> None:
        """Call it often."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + 1.0
        now_ns = time.time_ns()
        if arrival_ns > now_ns + DAY_NS:
            self._report(
                "the stream's times are over a day ahead of our clock: cleared alarms are forgotten"
                " early, and a ChangedAt of that time is believed. Which clock is wrong, and how to"
                " go back: see 'A clock was wrong by years' in docs/faq.md;",
                arrival=timestamps.to_text(arrival_ns),
                clock=timestamps.to_text(now_ns),
            )
