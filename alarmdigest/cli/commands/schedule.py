"""The commands ``schedule``, which changes who gets a digest when, and ``scheduler``, which sends
the requests: see docs/schedules.md."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from alarmdigest._ext import timestamps
from alarmdigest.cli.client import connect
from alarmdigest.cli.terminal import table, write_json, write_line
from alarmdigest.cli.user_id import checked_id
from alarmdigest.connect.buckets import BucketConfig, ensure_bucket
from alarmdigest.connect.process_runner import ProcessRunner
from alarmdigest.connect.publishing import BatchJetStream
from alarmdigest.connect.schedule.bucket import EVERYBODY, bucket_config
from alarmdigest.connect.schedule.editing import change, read_all, write_all
from alarmdigest.connect.schedule.entries import Entry
from alarmdigest.connect.schedule.metrics import SchedulerCollector
from alarmdigest.connect.schedule.schedule import (
    FOREVER_NS,
    UNTIL_RESUMED,
    UTC,
    Schedule,
    paused_until_text,
    read_paused_until,
    read_schedule,
    written,
    zone_name,
)
from alarmdigest.connect.schedule.timetable import timetable_of
from alarmdigest.connect.schedule.toml_file import lines_of, read_file
from alarmdigest.connect.schedule.work import SchedulerWork
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError

ACTIONS = ("set", "pause", "resume", "list", "remove", "import", "export")
WITH_USER = ("set", "pause", "resume", "remove")


class Buckets:
    """The bucket of schedules, over a connection of its own."""

    def __init__(self, js: BatchJetStream, config: BucketConfig, info: StreamInfo) -> None:
        self.js, self.config, self.info = js, config, info


def scheduler(settings: Settings, *, listen_on: str) -> int:
    """Run it; the exit code. Raises SettingsError and UrlError."""
    works: list[SchedulerWork] = []

    def make(on_failure: Any) -> SchedulerWork:
        works.append(SchedulerWork(settings, on_failure))
        return works[0]

    return ProcessRunner(
        "scheduler", settings, listen_on, make, lambda _work: SchedulerCollector(works[0])
    ).run()


def set_schedule(
    settings: Settings, user: str | None, fields: dict[str, Any], *, as_json: bool
) -> int:
    """Raises SettingsError, NatsError."""
    schedule = _checked(lambda: read_schedule(fields))
    return _change(
        settings,
        user,
        lambda before: replace(before, schedule=schedule, removed=False),
        as_json=as_json,
    )


def pause(settings: Settings, user: str | None, until: str | None, *, as_json: bool) -> int:
    """Raises SettingsError, NatsError."""

    def edit(before: Entry) -> Entry:
        zone = before.schedule.timezone if before.schedule is not None else UTC
        at_ns = read_paused_until(until or UNTIL_RESUMED, zone)
        if at_ns <= time.time_ns():
            raise ValueError(f"--until {until} is over")
        if user is EVERYBODY and before.removed:
            raise ValueError("there is no default schedule that could pause")
        return replace(before, paused_until_ns=at_ns, removed=False)

    return _change(settings, user, edit, as_json=as_json)


def resume(settings: Settings, user: str | None, *, as_json: bool) -> int:
    """Raises SettingsError, NatsError."""

    def edit(before: Entry) -> Entry:
        if not before.paused_until_ns:
            raise ValueError(f"{_name(user)} has no pause")
        return replace(before, paused_until_ns=0, removed=before.schedule is None)

    return _change(settings, user, edit, as_json=as_json)


def remove(settings: Settings, user: str | None, *, as_json: bool) -> int:
    """Raises SettingsError, NatsError."""

    def edit(before: Entry) -> Entry:
        if before.removed:
            raise ValueError(f"{_name(user)} has no schedule")
        return Entry(user, removed=True)

    return _change(settings, user, edit, as_json=as_json)


def list_schedules(settings: Settings, user: str | None, *, as_json: bool) -> int:
    """All, or what counts for one user; 1 where there is none. Raises SettingsError, NatsError."""
    with _bucket(settings) as bucket:
        entries = read_all(bucket.js, bucket.info)
    default = next((one for one in entries if one.user is EVERYBODY), Entry(EVERYBODY))
    if user is not None:
        own = next((one for one in entries if one.user == user), Entry(user))
        entries = [own] if own.schedule or own.paused_until_ns or default.schedule else []
    shown = [_described(entry, default) for entry in entries]
    if as_json:
        for one in shown:
            write_json(one)
    elif shown:
        rows = [
            (
                "everybody else" if one["UserID"] is None else printable(one["UserID"]),
                printable(one["text"]),
                one["told_at"] or "never",
                one["critical_told_at"] or "never",
            )
            for one in shown
        ]
        for line in table(("USER", "SCHEDULE", "DUE NOW IS TOLD AT", "CRITICAL AT"), rows):
            write_line(line)
    if not shown:
        whose = "there are no schedules" if user is None else f"{printable(user)} has no schedule"
        print(f"alarmdigest: {whose}: `alarmdigest schedule set`", file=sys.stderr)
        return exit_codes.INTERNAL_ERROR
    return exit_codes.CLEAN


def import_file(settings: Settings, file: Path, *, only_these: bool, as_json: bool) -> int:
    """Raises SettingsError, NatsError."""
    entries = read_file(file)
    with _bucket(settings) as bucket:
        removed: list[Entry] = []
        if only_these:
            named = {entry.user for entry in entries}
            there = read_all(bucket.js, bucket.info)
            removed = [Entry(one.user, removed=True) for one in there if one.user not in named]
        problems = write_all(bucket.js, bucket.config, [*entries, *removed])
    for problem in problems:
        print(f"alarmdigest: not all were stored: {problem}", file=sys.stderr)
    counts = {"written": len(entries), "removed": len(removed)}
    if not problems:
        _tell(counts, f"{len(entries)} schedules written, {len(removed)} removed", as_json)
    return exit_codes.INTERNAL_ERROR if problems else exit_codes.CLEAN


def export(settings: Settings) -> int:
    """On stdout. Raises SettingsError, NatsError."""
    with _bucket(settings) as bucket:
        for line in lines_of(read_all(bucket.js, bucket.info)):
            write_line(line)
    return exit_codes.CLEAN


def user_named(whose: str | None, *, default: bool, action: str) -> str | None:
    """The user that the command is about, or EVERYBODY. Raises SettingsError."""
    if default and whose is not None:
        raise SettingsError("say USER, or --default for all others, not both")
    if action in WITH_USER and not default and whose is None:
        raise SettingsError(f"say whose: schedule {action} USER, or --default for all others")
    return None if whose is None else checked_id(whose, "USER")


# -- inside


@contextmanager
def _bucket(settings: Settings) -> Iterator[Buckets]:
    connection = connect(settings, "alarmdigest-schedule")
    try:
        js = BatchJetStream(connection, domain=settings.js_domain)
        config = bucket_config(settings.stream_replicas, settings.js_domain)
        info = ensure_bucket(js, config, create=not settings.no_create_streams)
        js.home = info.domain
        yield Buckets(js, config, info)
    finally:
        connection.close()


def _change(settings: Settings, user: str | None, edit: Any, *, as_json: bool) -> int:
    with _bucket(settings) as bucket:
        entry = _checked(lambda: change(bucket.js, bucket.config, user, edit))
    one = _described(entry, Entry(EVERYBODY))
    _tell(one, f"{_name(user)}: {one['text']}", as_json)
    return exit_codes.CLEAN


def _checked(make: Any) -> Any:
    """What it gives. Raises SettingsError where it raises ValueError."""
    try:
        return make()
    except ValueError as error:
        raise SettingsError(*map(str, error.args)) from error


def _tell(fields: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        write_json(fields)
    else:
        write_line(printable(text))


def _name(user: str | None) -> str:
    return "everybody else" if user is EVERYBODY else str(user)


def _described(entry: Entry, default: Entry) -> dict[str, Any]:
    """An entry, and when something would be told that becomes due now."""
    schedule = entry.schedule or default.schedule
    paused_ns = entry.paused_until_ns
    if entry.schedule is None:
        paused_ns = max(paused_ns, default.paused_until_ns)
    now_ns = time.time_ns()
    times: list[str | None] = [None, None]
    if schedule is not None and not entry.removed:
        for place, critical in enumerate((False, True)):
            at_ns = timetable_of(schedule).due_at(
                now_ns, critical=critical, paused_until_ns=paused_ns
            )
            times[place] = None if at_ns == FOREVER_NS else _local(at_ns, schedule.timezone)
    return {
        "UserID": entry.user,
        "schedule": written(entry.schedule) if entry.schedule is not None else None,
        "paused_until": paused_until_text(paused_ns) if paused_ns > now_ns else None,
        "removed": entry.removed,
        "text": _text(entry, paused_ns if paused_ns > now_ns else 0),
        "told_at": times[0],
        "critical_told_at": times[1],
    }


def _local(at_ns: int, zone: str) -> str:
    return datetime.fromtimestamp(at_ns // 10**9, ZoneInfo(zone_name(zone))).isoformat()


def _text(entry: Entry, paused_ns: int) -> str:
    if entry.removed:
        return "removed"
    parts = [_sentence(entry.schedule)] if entry.schedule is not None else ["as everybody else"]
    if paused_ns == FOREVER_NS:
        parts.append("paused until resumed")
    elif paused_ns:
        parts.append(f"paused until {timestamps.to_text(paused_ns)}")
    return ", ".join(parts)


def _sentence(schedule: Schedule) -> str:
    fields = written(schedule)
    crons = fields.get("cron", [])
    parts = [f"cron {one}" for one in ([crons] if isinstance(crons, str) else crons)]
    for name, text in (("within", "within {}"), ("critical_within", "critical within {}")):
        if name in fields:
            parts.append(text.format(fields[name]))
    if "send_between" in fields:
        parts.append(f"only {fields['send_between']}")
    if schedule.critical_anytime:
        parts.append("critical at any time")
    return ", ".join(parts) + f" ({schedule.timezone})"
