"""A week with schedules, pauses and zones, in simulated time: the compiled alarm book, and an
agenda that dies now and then, against a walk through the week that looks at the clock on the wall.

The walk knows no instants and no heaps. At each step it asks of each user: has something been due
since a moment that a line of cron has passed, or for long enough, and may it be told now?
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone
from random import Random
from zoneinfo import ZoneInfo

import pytest
from model import Event, Request, Status
from support.core import Core, read_digest
from support.scale import cases

from alarmdigest.connect.schedule.agenda import Agenda
from alarmdigest.connect.schedule.schedule import FOREVER_NS, Schedule, read_schedule
from alarmdigest.connect.schedule.timetable import timetable_of
from alarmdigest.observability.due_news import due_lines

STEP_S = 30
NS = 10**9
# Both have a Sunday on which clocks change, in Athens and elsewhere.
WEEKS = ("2026-03-26", "2026-10-22", "2026-06-01")
W, C, X = Status.WARNING, Status.CRITICAL, Status.CLEARED


@dataclass
class Wish:
    """What a user wants, as the walk understands it: at these local times on these days (Monday is
    1), within so many seconds."""

    schedule: Schedule
    zone: ZoneInfo
    times: tuple[time, ...] = ()
    days: frozenset[int] = frozenset(range(1, 8))
    within_s: int | None = None
    critical_within_s: int | None = None
    between: tuple[time, time] | None = None
    anytime: bool = False


def wish(**fields: object) -> Wish:
    schedule = read_schedule(fields)
    crons = [fields["cron"]] if "cron" in fields else []
    found = Wish(schedule, ZoneInfo(str(fields.get("timezone", "UTC"))))
    for cron in crons:
        minute, hour, _day, _month, days = str(cron).split()
        found.times = (time(int(hour), int(minute)),)
        if days != "*":
            first, _, last = days.partition("-")
            found.days = frozenset(range(int(first), int(last or first) + 1))
    seconds = {"s": 1, "m": 60, "h": 3600}
    for name in ("within", "critical_within"):
        if (text := fields.get(name)) is not None:
            setattr(found, f"{name}_s", int(str(text)[:-1]) * seconds[str(text)[-1]])
    if (text := fields.get("send_between")) is not None:
        opens, _, closes = str(text).partition("-")
        found.between = time.fromisoformat(opens), time.fromisoformat(closes)
    found.anytime = bool(fields.get("critical_anytime"))
    return found


WISHES = {
    "cron": wish(cron="0 8 * * 1-5", timezone="Europe/Athens"),
    "cron-utc": wish(cron="30 17 * * *"),
    "cron-far": wish(cron="15 6 * * *", timezone="Pacific/Auckland", critical_within="0s"),
    "window": wish(within="10m", critical_within="1m", timezone="America/St_Johns"),
    "at-once": wish(within="0s"),
    "night": wish(within="5m", send_between="07:00-22:00", timezone="Europe/Athens"),
    "shift": wish(
        within="1h",
        critical_within="0s",
        send_between="22:00-06:00",
        critical_anytime=True,
        timezone="America/New_York",
    ),
    "both": wish(cron="0 9 * * 1", within="8h", timezone="Europe/Athens"),
}


@dataclass
class Seen:
    """Of one user: alarms as the rule has them, and since when something is to be told."""

    latest: dict[str, Status] = field(default_factory=dict)
    sent: dict[str, Status] = field(default_factory=dict)
    due_since: dict[str, datetime] = field(default_factory=dict)
    told_since: datetime | None = None
    critical: bool = False
    cron_at: datetime | None = None  # when a line of cron last passed
    paused_until: datetime | None = None


class Walk:
    """The slow way: what is told at each step."""

    def __init__(self) -> None:
        self.users = {user: Seen() for user in WISHES}

    def event(self, user: str, alarm: str, status: Status, now: datetime) -> None:
        seen = self.users[user]
        was_due, before = alarm in seen.due_since, seen.latest.get(alarm)
        seen.latest[alarm] = status
        if status == X:
            seen.due_since.pop(alarm, None)
            if alarm in seen.sent:
                seen.sent[alarm] = X  # whatever comes next is a change
            return
        if not was_due and seen.sent.get(alarm) != status:
            seen.due_since[alarm] = now
        if alarm in seen.due_since and (not was_due or (status, before) == (C, W)):
            first = seen.due_since[alarm]
            seen.told_since = min(seen.told_since or first, first)
            seen.critical = seen.critical or status == C

    def restart(self) -> None:
        """Whoever takes over knows what the service knows."""
        for seen in self.users.values():
            seen.told_since = min(seen.due_since.values(), default=None)
            seen.critical = any(seen.latest[alarm] == C for alarm in seen.due_since)

    def step(self, now: datetime) -> None:
        for user, want in WISHES.items():
            wall = now.astimezone(want.zone)
            if wall.time() in want.times and wall.isoweekday() in want.days:
                self.users[user].cron_at = now

    def told(self, now: datetime) -> dict[str, set[str]]:
        """Who is told which alarms."""
        found = {}
        for user, want in WISHES.items():
            seen = self.users[user]
            if seen.told_since is None or not self._ripe(want, seen, now):
                continue
            if seen.paused_until is not None and now < seen.paused_until:
                continue
            wall = now.astimezone(want.zone).time()
            if want.between is not None and not (want.anytime and seen.critical):
                opens, closes = want.between
                inside = opens <= wall < closes if opens < closes else not closes <= wall < opens
                if not inside:
                    continue
            if seen.due_since:
                found[user] = set(seen.due_since)
            for alarm in seen.due_since:
                seen.sent[alarm] = seen.latest[alarm]
            seen.due_since.clear()
            seen.told_since, seen.critical = None, False
        return found

    def _ripe(self, want: Wish, seen: Seen, now: datetime) -> bool:
        assert seen.told_since is not None
        waited_s = (now - seen.told_since).total_seconds()
        if want.within_s is not None and waited_s >= want.within_s:
            return True
        critical_s = want.critical_within_s if seen.critical else None
        if critical_s is not None and waited_s >= critical_s:
            return True
        return seen.cron_at is not None and seen.cron_at >= seen.told_since


class Real:
    """The product's parts: alarm books, and an agenda."""

    def __init__(self) -> None:
        # One for each user: of two messages in one the second arrives a nanosecond later.
        self.cores = {user: Core() for user in WISHES}
        for core in self.cores.values():
            core.books[0].watch(True)
        self.paused: dict[str, int] = {}
        self.agenda = Agenda(self._due_at)

    def _due_at(self, user: str, since_ns: int, critical: bool, not_before_ns: int) -> int:
        return timetable_of(WISHES[user].schedule).due_at(
            since_ns,
            critical=critical,
            paused_until_ns=self.paused.get(user, 0),
            not_before_ns=not_before_ns,
        )

    def event(self, user: str, alarm: str, status: Status, now_ns: int) -> None:
        core = self.cores[user]
        core.route_message(Event(user, alarm, status, now_ns), now_ns)
        core.merge()
        for who, worst, since_ns in due_lines(core.books[0].take_news()):
            self.agenda.add(who.decode(), since_ns, worst == C)

    def restart(self) -> None:
        self.agenda.clear()
        for core in self.cores.values():
            lines, _slot = core.books[0].due_users(0, 1 << 30, 1 << 30)
            for who, worst, since_ns in due_lines(lines):
                self.agenda.add(who.decode(), since_ns, worst == C)

    def told(self, now_ns: int) -> dict[str, set[str]]:
        found = {}
        for due in self.agenda.take(now_ns, 1000):
            core = self.cores[due.user]
            core.route_message(Request(due.user), now_ns)
            for body in core.merge():
                digest = read_digest(body)
                assert digest.user not in found
                found[digest.user] = {entry.alarm for entry in digest.entries}
        return found


@pytest.mark.parametrize("seed", range(cases(1, 20)))
@pytest.mark.parametrize("week", WEEKS)
def test_a_week_gives_exactly_the_right_messages(week: str, seed: int) -> None:
    random = Random(f"{week} {seed}")
    walk, real = Walk(), Real()
    now = datetime.fromisoformat(week).replace(tzinfo=timezone.utc)
    end = now + timedelta(days=7)
    messages, restarts = 0, 0
    while now < end:
        now_ns = round(now.timestamp()) * NS
        walk.step(now)
        for user in WISHES:
            if random.random() < 0.04:
                alarm, status = random.choice("abc"), random.choice([W, W, C, X])
                walk.event(user, alarm, status, now)
                real.event(user, alarm, status, now_ns)
            if random.random() < 0.0005:
                ends = now + timedelta(seconds=STEP_S * random.randrange(1, 2000))
                resumed = random.random() < 0.2
                walk.users[user].paused_until = None if resumed else ends
                real.paused[user] = 0 if resumed else round(ends.timestamp()) * NS
                real.agenda.schedule_changed(user)
        if random.random() < 0.005:
            restarts += 1
            walk.restart()
            real.restart()
        if random.random() < 0.9:  # at times all are down, and what was missed is told later
            told = real.told(now_ns)
            assert told == walk.told(now), now
            messages += len(told)
        now += timedelta(seconds=STEP_S)
    assert messages > 400
    assert restarts > 20


def test_a_pause_without_an_end_tells_nothing() -> None:
    real = Real()
    real.paused["at-once"] = FOREVER_NS
    real.event("at-once", "a", W, NS)
    assert real.told(10**18) == {}
    real.paused.clear()
    real.agenda.schedule_changed("at-once")
    assert real.told(10**18) == {"at-once": {"a"}}
