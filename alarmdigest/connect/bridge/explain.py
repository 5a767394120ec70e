"""``bridge --explain FILE``: what a payload would become, without sending anything."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import orjson

from alarmdigest._ext import timestamps
from alarmdigest.connect.bridge.alerts import Alert, NoAlarm, Rejection, UnreadableBody
from alarmdigest.connect.bridge.mapping import Alarm, Mapped, Mapper
from alarmdigest.connect.bridge.rules import Rules
from alarmdigest.connect.bridge.senders import SENDERS, sender_of
from alarmdigest.connect.bridge.times import Times
from alarmdigest.settings import SettingsError


def explained(rules: Rules, file: Path, sender: str | None) -> list[dict[str, Any]]:
    """One object for each alarm, rejection, or piece of other news, in the payload's order.

    ``-`` is stdin. Raises SettingsError for a file that cannot be read, and for a payload that the
    bridge would answer with 400.
    """
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from error
    try:
        decoded = orjson.loads(body)
        name = sender or sender_of(decoded)
        if name not in SENDERS:
            raise SettingsError(f"--sender {name}: there are {', '.join(SENDERS)}")
        found = list(SENDERS[name](decoded, {}))
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"{file}: not JSON in UTF-8: {error}") from error
    except UnreadableBody as error:
        raise SettingsError(f"{file}: {error} (400 Bad Request from /{name})") from error
    mapper = Mapper(rules)
    times = Times(ahead_ns=rules.time.ahead, remember_ns=rules.time.remember)
    return [
        {"sender": name, "alert": number, **_told(one, times)}
        for number, item in enumerate(found, 1)
        for one in (mapper.map(item) if isinstance(item, Alert) else (item,))
    ]


def _told(one: Mapped, times: Times) -> dict[str, Any]:
    if isinstance(one, Alarm):
        at_ns, _entry = times.decide(one, time.time_ns())
        return {
            "becomes": "alarm",
            "UserID": one.user_id,
            "AlarmID": one.alarm_id,
            "Status": one.status,
            "ChangedAt": timestamps.to_text(at_ns),
            "time": _whose(one, at_ns),
            "details": None if one.details is None else orjson.loads(one.details),
        }
    if isinstance(one, Rejection):
        return {"becomes": "rejected", "reason": one.reason, "detail": one.detail}
    assert isinstance(one, NoAlarm)
    return {"becomes": "nothing", "why": one.why, "count": one.count}


def _whose(alarm: Alarm, at_ns: int) -> str:
    if alarm.time_ns == 0:
        return "of receipt (none that can be read)"
    if at_ns == alarm.time_ns:
        return "of the sender"
    return "a little after receipt (the sender's is in the future)"
