"""What somebody wants: a schedule, as it is written, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, time, timezone
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from alarmdigest._ext import timestamps
from alarmdigest.settings.readers import duration

UTC = "UTC"
MAX_CRONS = 16
MAX_WITHIN_NS = 366 * 86400 * 10**9
#: ``paused_until`` of a pause without an end.
UNTIL_RESUMED = "resumed"
FOREVER_NS = 2**63 - 1
# What comes later no text of a time can say: year 2262.
LATEST_NS = 9_223_372_036_000_000_000
KEYS = ("cron", "timezone", "within", "critical_within", "send_between", "critical_anytime")
_BETWEEN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))")


@dataclass(frozen=True, slots=True)
class Schedule:
    """When digests go out. Texts as a person writes them; make one with ``read_schedule``.

    ``crons`` have five fields and count in ``timezone``. ``within_ns`` is how long something may
    wait at most, ``critical_within_ns`` if it is critical; None for no such limit.
    ``send_between`` are two local times: at others everything waits, but for something critical
    where ``critical_anytime``.
    """

    crons: tuple[str, ...] = ()
    timezone: str = UTC
    within_ns: int | None = None
    critical_within_ns: int | None = None
    send_between: tuple[time, time] | None = None
    critical_anytime: bool = False


def read_schedule(fields: Mapping[str, Any]) -> Schedule:
    """From names and values as in KEYS; those that are None or missing have their default.

    Raises ValueError, a sentence for each problem.
    """
    problems: list[str] = []

    def read(name: str, reader: Any, default: Any) -> Any:
        value = fields.get(name)
        if value is None:
            return default
        try:
            return reader(value)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            return default

    unknown = [name for name in fields if name not in KEYS]
    problems += [f"there is no {name}; there are {', '.join(KEYS)}" for name in unknown]
    schedule = Schedule(
        crons=read("cron", _crons, ()),
        timezone=read("timezone", zone_name, UTC),
        within_ns=read("within", _within, None),
        critical_within_ns=read("critical_within", _within, None),
        send_between=read("send_between", _between, None),
        critical_anytime=read("critical_anytime", _boolean, False),
    )
    if not problems and not schedule.crons and schedule.within_ns is None:
        problems.append("say when: with cron, or within, or both")
    if problems:
        raise ValueError(*problems)
    return schedule


def written(schedule: Schedule) -> dict[str, Any]:
    """What ``read_schedule`` reads: without what has its default."""
    found: dict[str, Any] = {}
    if schedule.crons:
        found["cron"] = list(schedule.crons) if len(schedule.crons) > 1 else schedule.crons[0]
    if schedule.timezone != UTC:
        found["timezone"] = schedule.timezone
    if schedule.within_ns is not None:
        found["within"] = duration_text(schedule.within_ns)
    if schedule.critical_within_ns is not None:
        found["critical_within"] = duration_text(schedule.critical_within_ns)
    if schedule.send_between is not None:
        opens, closes = schedule.send_between
        closing = "24:00" if closes == time(0) else f"{closes:%H:%M}"
        found["send_between"] = f"{opens:%H:%M}-{closing}"
    if schedule.critical_anytime:
        found["critical_anytime"] = True
    return found


def duration_text(ns: int) -> str:
    for unit, size in (("d", 86400 * 10**9), ("h", 3600 * 10**9), ("m", 60 * 10**9), ("s", 10**9)):
        if ns and ns % size == 0:
            return f"{ns // size}{unit}"
    return f"{ns // 10**6}ms" if ns else "0s"


def zone_name(text: Any) -> str:
    """Raises ValueError for what is no time zone."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r:.80} is no text")
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = get_close_matches(text, available_timezones(), 1)
        hint = f"; do you mean {near[0]}?" if near else ", such as Europe/Athens"
        raise ValueError(f"there is no time zone {text!r:.80}{hint}") from None
    return text


def read_paused_until(text: Any, zone: str) -> int:
    """In ns since 1970: of RFC 3339, a local date, or date and time, or UNTIL_RESUMED.

    Raises ValueError.
    """
    if text == UNTIL_RESUMED:
        return FOREVER_NS
    if isinstance(text, str):
        try:
            return timestamps.to_ns(text)
        except ValueError:
            pass
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            if at.tzinfo is None:
                at = at.replace(tzinfo=ZoneInfo(zone))
            with suppress(OverflowError):
                return min(round(at.timestamp()) * 10**9, FOREVER_NS)
    raise ValueError(
        f"{text!r:.80} is no time like 2026-12-24, 2026-12-24T08:00 or 2026-12-24T08:00:00+02:00"
    )


def paused_until_text(ns: int) -> str:
    """What ``read_paused_until`` reads."""
    return UNTIL_RESUMED if ns >= LATEST_NS else timestamps.to_text(ns)


def _crons(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"{value!r:.80} is no text, and no list of texts")
    if not 1 <= len(texts) <= MAX_CRONS:
        raise ValueError(f"there may be 1 to {MAX_CRONS}, and there are {len(texts)}")
    return tuple(_cron(one) for one in texts)


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) != 5 or len(text) > 200:
        raise ValueError(
            f"{text!r:.80} has {len(fields)} fields; a cron line has five: minute, hour, day of "
            "the month, month, day of the week"
        )
    try:
        # Some days never come, such as the 30th of February or the 31st of April.
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=timezone.utc)))
    except CronSimError as error:
        raise ValueError(f"{text!r:.80} is no cron line: {error}") from None
    except StopIteration:
        raise ValueError(f"{text!r:.80} is a day that never comes") from None
    return " ".join(fields)


def _within(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is no text; write it like 5m")
    found = duration(value)
    if found > MAX_WITHIN_NS:
        raise ValueError(f"{value!r:.80} is more than a year")
    return int(found)


def _between(value: Any) -> tuple[time, time]:
    match = _BETWEEN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r:.80} is not like 07:00-22:00")
    opens = time(int(match[1]), int(match[2]))
    closes = time(0) if match[5] else time(int(match[3]), int(match[4]))
    if opens == closes:
        raise ValueError(f"{value!r:.80} is always or never; leave it out for always")
    return opens, closes


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.80} is neither true nor false")
    return value
