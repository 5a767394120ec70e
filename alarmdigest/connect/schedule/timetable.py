"""From since when something is due to when it is told: a function of the schedule alone."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

from alarmdigest.connect.schedule.schedule import FOREVER_NS, Schedule

SECOND_NS = 10**9
# Of each cron line so many stretches between two instants are remembered: a million users who are
# due since the same night ask for the same instant.
STRETCHES = 16


@lru_cache(maxsize=4096)
def timetable_of(schedule: Schedule) -> Timetable:
    """Most users have one of few schedules."""
    return Timetable(schedule)


class Timetable:
    """For one thread."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._zone = ZoneInfo(schedule.timezone)
        self._crons = [_Cron(text, self._zone) for text in schedule.crons]

    def due_at(
        self, since_ns: int, *, critical: bool, paused_until_ns: int = 0, not_before_ns: int = 0
    ) -> int:
        """When to ask for the digest, in ns since 1970; maybe long ago. FOREVER_NS for never.

        What is due exactly at an instant of a cron line is told at it. Neither a pause nor
        ``not_before_ns`` takes anything out of the send window.
        """
        schedule = self._schedule
        times = [cron.at_or_after(since_ns) for cron in self._crons]
        if schedule.within_ns is not None:
            times.append(since_ns + schedule.within_ns)
        if critical and schedule.critical_within_ns is not None:
            times.append(since_ns + schedule.critical_within_ns)
        at_ns = max(min(times), paused_until_ns, not_before_ns)
        if at_ns >= FOREVER_NS:
            return FOREVER_NS
        if schedule.send_between is None or (critical and schedule.critical_anytime):
            return at_ns
        return self._in_send_window(at_ns, *schedule.send_between)

    def _in_send_window(self, at_ns: int, opens: time, closes: time) -> int:
        """The same, or when the window opens next."""
        local = datetime.fromtimestamp(at_ns // SECOND_NS, self._zone)
        now = local.time()
        # One that ends at midnight is like one that goes beyond it.
        inside = opens <= now < closes if opens < closes else (now >= opens or now < closes)
        if inside:
            return at_ns
        day = local.date() if now < opens else local.date() + timedelta(days=1)
        # Never back: the hour that comes twice may hold an opening that is over.
        return max(at_ns, self._instant(day, opens))

    def _instant(self, day: date, at: time) -> int:
        """Of a local time that the clock skips, the same time as before the change; of one that
        comes twice, the first."""
        return round(datetime.combine(day, at, self._zone).timestamp()) * SECOND_NS


class _Cron:
    """One cron line in a time zone. What the clock skips when summer time begins comes right after,
    what comes twice when it ends comes once, as in Debian's cron; lines for every hour or minute
    just go on."""

    def __init__(self, text: str, zone: ZoneInfo) -> None:
        self._text = text
        self._zone = zone
        self._stretches: list[tuple[int, int]] = []

    def at_or_after(self, since_ns: int) -> int:
        for after_ns, next_ns in self._stretches:
            if after_ns < since_ns <= next_ns:
                return next_ns
        # The last whole second before: what falls on an instant is told at it.
        after_s = (since_ns - 1) // SECOND_NS
        try:
            found = next(CronSim(self._text, datetime.fromtimestamp(after_s, self._zone)))
        except (StopIteration, ValueError, OverflowError):
            return FOREVER_NS
        stretch = after_s * SECOND_NS, round(found.timestamp()) * SECOND_NS
        self._stretches = [stretch, *self._stretches][:STRETCHES]
        return stretch[1]
