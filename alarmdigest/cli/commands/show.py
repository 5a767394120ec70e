"""The command ``show``: one user's alarms, as the running service knows them, or the store."""

from __future__ import annotations

import sys
import time
from typing import Any, Literal, TypeAlias

from alarmdigest._ext import timestamps
from alarmdigest.cli.questions import ask, who
from alarmdigest.cli.terminal import duration_text, table, write_json, write_line
from alarmdigest.cli.user_id import checked_id
from alarmdigest.nats.errors import NatsError
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings
from alarmdigest.store import Checkpoint, StoreDamaged, open_reader
from alarmdigest.store.one_user import alarm_json, alarms_of

Source: TypeAlias = Literal["either", "service", "store"]


def show(settings: Settings, user_id: str, *, only_due: bool, source: Source, as_json: bool) -> int:
    """Report on stdout; the exit code: 1 for a user who is not known.

    Raises StoreError, SettingsError, and, where only the service may be asked, NatsError.
    """
    if source != "store":
        user = checked_id(user_id, "USER")
        try:
            answer = ask(settings, "show", "alarms", UserID=user)
        except NatsError as error:
            # Who names a server and no store wants what is there, and nothing else.
            if source == "service" or (settings.server and not _names_store(settings)):
                raise
            print(f"alarmdigest: reading the store: {error}", file=sys.stderr, flush=True)
        else:
            return _report_answer(user, answer, only_due=only_due, as_json=as_json)
    return _report_store(settings, user_id, only_due=only_due, as_json=as_json)


def _names_store(settings: Settings) -> bool:
    default = Settings()
    names = ("data_dir", "store", "cassandra", "cassandra_keyspace")
    return any(getattr(settings, name) != getattr(default, name) for name in names)


def _report_answer(user_id: str, answer: dict[str, Any], *, only_due: bool, as_json: bool) -> int:
    alarms = answer["alarms"]
    if not alarms:
        print(f"alarmdigest: no alarms of user {user_id!a}, says {who(answer)}", file=sys.stderr)
        return exit_codes.INTERNAL_ERROR
    shown = [alarm for alarm in alarms if alarm["due"]] if only_due else alarms
    if as_json:
        facts = {name: answer[name] for name in ("replica", "leads", "behind", "at")}
        write_json({"UserID": user_id, "source": "service", **facts, "alarms": shown})
    else:
        write_line(printable(f"user {user_id}, as {who(answer)} knows it now"))
        _write_alarms(shown, held=len(alarms))
    return exit_codes.CLEAN


def _report_store(settings: Settings, user_id: str, *, only_due: bool, as_json: bool) -> int:
    with open_reader(settings) as reader:
        try:
            alarms = alarms_of(reader, user_id)
        except UnicodeEncodeError:  # no message has such an id
            alarms = []
        except ValueError as error:
            raise StoreDamaged(f"the store cannot be read: {error}") from error
        last = reader.last  # that of these rows: a service may write meanwhile
    if not alarms or last is None:
        _say_unknown(user_id, last)
        return exit_codes.INTERNAL_ERROR
    shown = [alarm_json(alarm) for alarm in alarms if alarm.due or not only_due]
    if as_json:
        facts = {
            "checkpoint": last.number,
            "written_at": timestamps.to_text(last.written_at_ns),
        }
        write_json({"UserID": user_id, "source": "store", **facts, "alarms": shown})
    else:
        age = duration_text(max(0.0, (time.time_ns() - last.written_at_ns) / 1e9))
        where = f"checkpoint {last.number} in {settings.place_of_state}, written {age} ago"
        write_line(f"user {printable(user_id)}, as of {where}")
        _write_alarms(shown, held=len(alarms))
    return exit_codes.CLEAN


def _say_unknown(user_id: str, last: Checkpoint | None) -> None:
    known = f"in checkpoint {last.number}" if last else "in a store without a checkpoint"
    print(f"alarmdigest: no alarms of user {user_id!a} {known}", file=sys.stderr)


def _write_alarms(alarms: list[dict[str, Any]], *, held: int) -> None:
    due = sum(alarm["due"] for alarm in alarms)
    write_line(f"{held} {'alarm' if held == 1 else 'alarms'}, {len(alarms)} shown, {due} due")
    rows = [
        (
            printable(alarm["AlarmID"]),
            alarm["Status"],
            alarm["LatestChangedAt"],
            _sent(alarm["sent"]),
            "yes" if alarm["due"] else "no",
        )
        for alarm in alarms
    ]
    for line in table(("ALARM", "STATUS", "CHANGED AT", "SENT", "DUE"), rows):
        write_line(line)


def _sent(sent: dict[str, str] | None) -> str:
    return "never" if sent is None else f"{sent['Status']} {sent['LatestChangedAt']}"
