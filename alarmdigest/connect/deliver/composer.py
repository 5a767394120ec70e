"""From digests to a message: what else is known of the user and his alarms."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from alarmdigest._ext import timestamps
from alarmdigest.connect import service_questions
from alarmdigest.connect.deliver.consumer import DigestJetStream
from alarmdigest.connect.deliver.digests import Digest, ids_of
from alarmdigest.connect.deliver.message import CLEARED, AlarmLine, Message
from alarmdigest.connect.detail_keys import key_of
from alarmdigest.nats.errors import JetStreamDenied, JetStreamOff, NoAnswer
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

# After a question that took so long, nobody is asked about this user for a while, and about nobody
# where the one before was slow, too: digests would queue up behind it.
SLOW_S = 1.0
ASK_AGAIN_S = 5.0


class Alarm(NamedTuple):
    """One of a user's, as the service has it."""

    alarm_id: str
    status: str
    since_ns: int
    arrived_ns: int
    told_as: str


class Composed(NamedTuple):
    """``told_through`` is what the user knows once he has the message; None where the service was
    silent."""

    message: Message
    told_through: int | None


class Composer:
    """Belongs to one thread; its counters may be read by others."""

    def __init__(self, settings: Settings, details_bucket: str, most_rows: int) -> None:
        self._settings = settings
        self._details = f"KV_{details_bucket}"
        self._details_prefix = f"$KV.{details_bucket}."
        self.most_rows = most_rows
        self._silent_until = 0.0
        self._slow_user = ""
        self._slow_until = 0.0
        self.state_unknown = 0
        self._unknown = LimitedLog(log, logging.WARNING)

    def compose(
        self, js: DigestJetStream, parts: Sequence[Digest], told_through: int | None
    ) -> Composed:
        """Raises ConnectionLost only: without what cannot be had it goes on."""
        user_id = parts[0].user_id
        new = {alarm.alarm_id: alarm for part in parts for alarm in part.alarms}
        state = self._state(js, user_id)
        now = {alarm.alarm_id: alarm.status for alarm in state or ()}
        still = [
            alarm
            for alarm in state or ()
            if alarm.status != CLEARED and alarm.told_as and alarm.alarm_id not in new
        ]
        cleared = [
            alarm
            for alarm in state or ()
            if alarm.status == CLEARED
            and alarm.told_as not in ("", CLEARED)
            and told_through is not None
            and alarm.arrived_ns > told_through
            and alarm.alarm_id not in new
        ]
        lines = [
            [AlarmLine(one.alarm_id, one.status, one.since_ns) for one in some]
            for some in (new.values(), still, cleared)
        ]
        told_new, told_still, told_cleared = self._with_details(js, user_id, lines, now)
        message = Message(
            user_id,
            time.time_ns(),
            ids_of(parts),
            new=tuple(told_new),
            still_active=tuple(told_still),
            cleared=tuple(told_cleared),
            state_known=state is not None,
        )
        through = max((alarm.arrived_ns for alarm in state), default=0) if state else None
        return Composed(message, through)

    def _state(self, js: DigestJetStream, user_id: str) -> list[Alarm] | None:
        """All alarms of a user; None where nobody says."""
        asked_at = time.monotonic()
        slow = user_id == self._slow_user and asked_at < self._slow_until
        if asked_at < self._silent_until or slow:
            self.state_unknown += 1
            return None
        try:
            answer = service_questions.ask(js, self._settings, "show", "alarms", UserID=user_id)
            return [found for one in answer["alarms"] if (found := _alarm(one)) is not None]
        except (NoAnswer, JetStreamDenied) as error:
            self.state_unknown += 1
            self._unknown("sent without what else is active", reason=error)
            now = time.monotonic()
            if now - asked_at > SLOW_S:
                if self._slow_user and self._slow_user != user_id and asked_at < self._slow_until:
                    self._silent_until = now + ASK_AGAIN_S
                self._slow_user, self._slow_until = user_id, now + ASK_AGAIN_S
            return None

    def _with_details(
        self,
        js: DigestJetStream,
        user_id: str,
        lines: Sequence[Sequence[AlarmLine]],
        now: Mapping[str, str],
    ) -> list[list[AlarmLine]]:
        subjects = {
            line.alarm_id: self._details_prefix + key_of(user_id, line.alarm_id)
            for some in lines
            for line in some[: self.most_rows]
        }
        try:
            found = js.entries(self._details, list(subjects.values()), all_of_them=False)
        except (NoAnswer, JetStreamOff, JetStreamDenied):
            found = {}
        told = []
        for some in lines:
            told.append(
                [
                    replace(
                        line,
                        now=now.get(line.alarm_id, ""),
                        **_details(found[subject].payload, user_id, line.alarm_id),
                    )
                    if (subject := subjects.get(line.alarm_id, "")) in found
                    else replace(line, now=now.get(line.alarm_id, ""))
                    for line in some
                ]
            )
        return told


def _alarm(told: Any) -> Alarm | None:
    """None for what is none: anybody who may can answer."""
    try:
        sent = told["sent"]
        return Alarm(
            str(told["AlarmID"]),
            str(told["Status"]),
            timestamps.to_ns(told["LatestChangedAt"]),
            timestamps.to_ns(told["arrived_at"]),
            "" if sent is None else str(sent["Status"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _details(body: bytes, user_id: str, alarm_id: str) -> dict[str, Any]:
    """The fields of a line; none where the entry is not this alarm's, or not as it should be."""
    try:
        entry = orjson.loads(body)
        if (entry["UserID"], entry["AlarmID"]) != (user_id, alarm_id):
            return {}
        return {
            **{name: _text(entry.get(name)) for name in ("name", "summary", "description")},
            **{name: _texts(entry.get(name)) for name in ("labels", "links")},
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> dict[str, str]:
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    return {name: one for name, one in items if isinstance(one, str)}
