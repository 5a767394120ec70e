"""From since when something is due to when it is told, against a slow walk through the minutes."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alarmdigest.connect.schedule.schedule import FOREVER_NS, Schedule, read_schedule
from alarmdigest.connect.schedule.timetable import Timetable

S = 10**9
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def ns(text: str, zone: str = "UTC") -> int:
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=ZoneInfo(zone))).timestamp() * S)


def told(schedule: Schedule, since: str, *, critical: bool = False, paused_until: int = 0) -> str:
    """Local times, in and out."""
    zone = schedule.timezone
    at_ns = Timetable(schedule).due_at(
        ns(since, zone), critical=critical, paused_until_ns=paused_until
    )
    return datetime.fromtimestamp(at_ns / S, ZoneInfo(zone)).isoformat()


def schedule(**fields: object) -> Schedule:
    return read_schedule(fields)


WORKDAYS = schedule(cron="0 8 * * 1-5", timezone="Europe/Athens")


@pytest.mark.parametrize(
    ("since", "at"),
    [
        ("2026-11-27T07:59:59", "2026-11-27T08:00:00+02:00"),
        ("2026-11-27T08:00:00", "2026-11-27T08:00:00+02:00"),  # at it is at it
        ("2026-11-27T08:00:00.000001", "2026-11-30T08:00:00+02:00"),  # a Friday
        ("2026-11-28T12:00:00", "2026-11-30T08:00:00+02:00"),
    ],
)
def test_a_cron_line_counts_in_its_zone(since: str, at: str) -> None:
    assert told(WORKDAYS, since) == at


@pytest.mark.parametrize(
    ("cron", "since", "at"),
    [
        # Athens loses 03:00 to 04:00 on 29 March, and has it twice on 25 October.
        ("30 3 * * *", "2026-03-28T12:00", "2026-03-29T04:00:00+03:00"),
        ("30 3 * * *", "2026-03-29T05:00", "2026-03-30T03:30:00+03:00"),
        ("30 3 * * *", "2026-10-24T12:00", "2026-10-25T03:30:00+03:00"),
        ("30 3 * * *", "2026-10-25T03:31:00+03:00", "2026-10-26T03:30:00+02:00"),
        ("0 * * * *", "2026-10-25T03:10:00+03:00", "2026-10-25T03:00:00+02:00"),
        ("0 8 * * *", "2026-03-28T09:00", "2026-03-29T08:00:00+03:00"),
        ("0 8 * * *", "2026-10-24T09:00", "2026-10-25T08:00:00+02:00"),
    ],
)
def test_no_time_is_skipped_or_doubled_when_the_clock_changes(
    cron: str, since: str, at: str
) -> None:
    assert told(schedule(cron=cron, timezone="Europe/Athens"), since) == at


def test_of_several_lines_the_first_counts() -> None:
    both = schedule(cron=["0 8 * * 1-5", "0 10 * * 6,0"], timezone="Europe/Athens")
    assert told(both, "2026-11-27T09:00") == "2026-11-28T10:00:00+02:00"
    assert told(both, "2026-11-28T11:00") == "2026-11-29T10:00:00+02:00"
    assert told(both, "2026-11-29T11:00") == "2026-11-30T08:00:00+02:00"


def test_a_window_ends_so_long_after_the_first_and_a_critical_one_shortens_it() -> None:
    window = schedule(within="30m", critical_within="1m")
    assert told(window, "2026-01-01T10:00") == "2026-01-01T10:30:00+00:00"
    assert told(window, "2026-01-01T10:00", critical=True) == "2026-01-01T10:01:00+00:00"
    daily = schedule(cron="0 8 * * *", critical_within="0s")
    assert told(daily, "2026-01-01T10:00") == "2026-01-02T08:00:00+00:00"
    assert told(daily, "2026-01-01T10:00", critical=True) == "2026-01-01T10:00:00+00:00"
    # Where it has no time of its own, a critical one waits like others.
    assert told(schedule(within="30m"), "2026-01-01T10:00", critical=True) == (
        "2026-01-01T10:30:00+00:00"
    )


QUIET = schedule(within="5m", send_between="07:00-22:00", timezone="Europe/Athens")


@pytest.mark.parametrize(
    ("since", "at"),
    [
        ("2026-11-28T21:54:59", "2026-11-28T21:59:59+02:00"),
        ("2026-11-28T21:55:00", "2026-11-29T07:00:00+02:00"),  # 22:00 is outside
        ("2026-11-28T03:00:00", "2026-11-28T07:00:00+02:00"),
        ("2026-11-28T06:55:00", "2026-11-28T07:00:00+02:00"),
        # Local time, also when the clock has changed in the night.
        ("2026-03-28T23:00:00", "2026-03-29T07:00:00+03:00"),
        ("2026-10-24T23:00:00", "2026-10-25T07:00:00+02:00"),
    ],
)
def test_at_night_everything_waits(since: str, at: str) -> None:
    assert told(QUIET, since) == at
    assert told(QUIET, since, critical=True) == at


@pytest.mark.parametrize(
    ("between", "since", "at"),
    [
        ("22:00-06:00", "2026-01-01T23:00", "2026-01-01T23:00:00+00:00"),
        ("22:00-06:00", "2026-01-02T05:59", "2026-01-02T05:59:00+00:00"),
        ("22:00-06:00", "2026-01-02T06:00", "2026-01-02T22:00:00+00:00"),
        ("22:00-24:00", "2026-01-01T23:59", "2026-01-01T23:59:00+00:00"),
        ("22:00-24:00", "2026-01-02T00:00", "2026-01-02T22:00:00+00:00"),
        ("00:00-01:00", "2026-01-02T01:00", "2026-01-03T00:00:00+00:00"),
    ],
)
def test_a_send_window_may_pass_midnight(between: str, since: str, at: str) -> None:
    assert told(schedule(within="0s", send_between=between), since) == at


def test_critical_may_go_out_at_any_time() -> None:
    anytime = schedule(within="0s", send_between="07:00-22:00", critical_anytime=True)
    assert told(anytime, "2026-01-01T03:00", critical=True) == "2026-01-01T03:00:00+00:00"
    assert told(anytime, "2026-01-01T03:00") == "2026-01-01T07:00:00+00:00"


def test_a_pause_ends_before_the_send_window_is_looked_at() -> None:
    until = ns("2026-12-24T05:00", "Europe/Athens")
    assert told(QUIET, "2026-11-28T10:00", paused_until=until) == "2026-12-24T07:00:00+02:00"
    assert told(WORKDAYS, "2026-11-27T07:00", paused_until=until) == "2026-12-24T05:00:00+02:00"
    # A pause that is over before it would be told changes nothing.
    assert told(QUIET, "2026-12-25T10:00", paused_until=until) == "2026-12-25T10:05:00+02:00"
    for paused in (FOREVER_NS, FOREVER_NS - 1):
        at = Timetable(QUIET).due_at(ns("2026-11-28T10:00"), critical=True, paused_until_ns=paused)
        assert at >= FOREVER_NS - 1


ZONES = ("UTC", "Europe/Athens", "Asia/Kolkata", "America/St_Johns", "Pacific/Auckland")


@given(
    st.sampled_from(ZONES),
    st.integers(0, 59),
    st.integers(5, 23),  # where no zone changes its clock
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 366 * 86400 * S),
)
def test_a_cron_line_is_the_next_minute_that_fits(
    zone: str, minute: int, hour: int, days: set[int], offset_ns: int
) -> None:
    cron = f"{minute} {hour} * * {','.join(map(str, sorted(days)))}"
    since_ns = round(START.timestamp()) * S + offset_ns
    at = datetime.fromtimestamp(-(-since_ns // (60 * S)) * 60, ZoneInfo(zone))
    steps = 0
    while (at.minute, at.hour) != (minute, hour) or at.isoweekday() % 7 not in days:
        at = (at.astimezone(timezone.utc) + timedelta(minutes=1)).astimezone(at.tzinfo)
        steps += 1
        assert steps < 9 * 24 * 60
    table = Timetable(schedule(cron=cron, timezone=zone))
    expected = round(at.timestamp()) * S
    assert table.due_at(since_ns, critical=False) == expected
    # What is remembered of it changes nothing.
    assert table.due_at(expected, critical=False) == expected
    assert table.due_at(expected + 1, critical=False) > expected
    assert table.due_at(since_ns, critical=False) == expected


@given(st.integers(-(2**63), 2**63 - 1), st.booleans())
def test_no_time_however_odd_makes_it_fail(since_ns: int, critical: bool) -> None:
    """A clock may say anything."""
    for one in (WORKDAYS, QUIET, schedule(within="366d", cron="0 0 29 2 *")):
        at_ns = Timetable(one).due_at(since_ns, critical=critical)
        assert at_ns >= since_ns


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "say when: with cron, or within, or both"),
        ({"critical_within": "5m"}, "say when"),
        ({"cron": "0 8 * *"}, "has 4 fields"),
        ({"cron": "0 0 8 * * *"}, "has 6 fields"),
        ({"cron": "0 25 * * *"}, "is no cron line"),
        ({"cron": "0 8 31 4 *"}, "is a day that never comes|is no cron line"),
        ({"cron": "@daily"}, "has 1 fields"),
        ({"cron": []}, "there may be 1 to 16"),
        ({"cron": 5}, "is no text"),
        ({"within": "5"}, "is no duration"),
        ({"within": "400d"}, "more than a year"),
        ({"within": 5}, "is no text"),
        ({"within": "1m", "timezone": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
        ({"within": "1m", "timezone": "../etc/passwd"}, "there is no time zone"),
        ({"within": "1m", "timezone": "Europe/Atens"}, "do you mean Europe/Athens?"),
        ({"within": "1m", "timezone": ""}, "there is no time zone"),
        ({"within": "1m", "send_between": "7-22"}, "is not like 07:00-22:00"),
        ({"within": "1m", "send_between": "07:00-07:00"}, "always or never"),
        ({"within": "1m", "send_between": "07:00-24:30"}, "is not like"),
        ({"within": "1m", "critical_anytime": "yes"}, "neither true nor false"),
        ({"within": "1m", "cronn": "x"}, "there is no cronn"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_schedule(fields)
