"""From an alert to the alarms of its users, by the rules."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from alarmdigest.connect.bridge.alerts import Alert, NoAlarm, Rejection, rejected
from alarmdigest.connect.bridge.details import details_of, packed
from alarmdigest.connect.bridge.label_text import matchers_of
from alarmdigest.connect.bridge.rules import CRITICAL, WARNING, Rules
from alarmdigest.connect.detail_keys import key_of
from alarmdigest.wire.messages import MAX_ID_BYTES

CLEARED = "CLEARED"
# So many users may share an alert: each gets an event and details of his own.
MAX_USERS = 100
# A longer AlarmID is cut, and gets a hash of the whole behind it.
HASH_BYTES = 8


class Alarm(NamedTuple):
    """A change of one alarm of one user. ``time_ns`` is what the sender told, 0 for nothing that
    can be used; ``began_ns`` is when its alert began, as told, and ``keeps_start`` as in ``Alert``.
    ``details`` is the entry for ALARM_DETAILS under ``key``, None where none are to be kept."""

    user_id: str
    alarm_id: str
    status: str
    time_ns: int
    key: str
    details: bytes | None
    keeps_start: bool = True
    began_ns: int = 0


Mapped: TypeAlias = Alarm | Rejection | NoAlarm


class Mapper:
    """Maps alerts by some rules."""

    def __init__(self, rules: Rules) -> None:
        self._user, self._alarm = rules.user, rules.alarm
        self._with_details = not rules.details.off
        self._without = frozenset(rules.alarm.without)
        severity = rules.severity
        self._severity_label, self._default_status = severity.label, severity.default
        self._statuses = dict.fromkeys(severity.critical, CRITICAL)
        self._statuses |= dict.fromkeys((WARNING.lower(), "warn"), WARNING)
        self._statuses |= dict.fromkeys(severity.warning, WARNING)
        self._ignored = frozenset(severity.ignored)

    def map(self, alert: Alert) -> Iterator[Mapped]:
        """Alarms, one for each of its users; or what stands in the way."""
        word = (alert.severity or alert.labels.get(self._severity_label, "")).strip().lower()
        # Its end is news all the same: it may have been an alarm before the rules were changed.
        if word in self._ignored and not alert.resolved:
            yield NoAlarm("severity")
            return
        status = self._statuses.get(word, self._default_status)
        if alert.resolved:
            status = CLEARED
        elif status not in (WARNING, CRITICAL):
            yield _rejected("status", f"severity {word[:40]!r} is in none of the lists", alert)
            return
        users = self._users_of(alert)
        if not users:
            yield _rejected("schema", "nothing names its user, and there is no default", alert)
            return
        if len(users) > MAX_USERS:
            yield _rejected("too_long", f"it names more than {MAX_USERS} users", alert)
            return
        alarm_id = self._alarm_id(alert)
        if not alarm_id:
            yield _rejected(
                "schema",
                "nothing makes its AlarmID: no name, or a label of the template is missing",
                alert,
            )
            return
        details = details_of(alert) if self._with_details else None
        time_ns = alert.ends_at_ns if alert.resolved else alert.starts_at_ns
        for user in users:
            if len(user) * 4 > MAX_ID_BYTES and len(user.encode()) > MAX_ID_BYTES:
                detail = f"the user's id has more than {MAX_ID_BYTES} bytes"
                yield _rejected("too_long", detail, alert)
                continue
            entry = None if details is None else packed(user, alarm_id, details)
            key = key_of(user, alarm_id)
            yield Alarm(
                user, alarm_id, status, time_ns, key, entry, alert.keeps_start, alert.starts_at_ns
            )

    def _users_of(self, alert: Alert) -> list[str]:
        rules, sources = self._user, (alert.labels, alert.hints)
        named = [alert.user] if alert.user else []
        if (
            not named
            and rules.template is not None
            and (one := rules.template.fill(*sources, _own(alert)))
        ):
            named.append(one)
        for label in rules.labels:
            if alert.user or (named and not rules.all):
                break
            for source in sources:
                if value := source.get(label, ""):
                    named.append(value)
                    break
        if rules.separator:
            named = [part for one in named for part in one.split(rules.separator)]
        found = {user: None for one in named if (user := one.strip())}
        return list(found) or ([rules.default] if rules.default else [])

    def _alarm_id(self, alert: Alert) -> str:
        """Readable, of the alert's name and all labels; or as the template says, and then empty
        where that lacks a value."""
        if (template := self._alarm.template) is not None:
            alarm_id = template.fill(_own(alert), alert.labels, alert.hints)
        else:
            alarm_id = alert.name + self._labels_text(alert.labels)
        if len(alarm_id) * 4 > MAX_ID_BYTES and len(whole := alarm_id.encode()) > MAX_ID_BYTES:
            hashed = hashlib.sha256(whole).hexdigest()[: 2 * HASH_BYTES]
            room = MAX_ID_BYTES - 2 * HASH_BYTES - 1
            alarm_id = f"{whole[:room].decode('utf-8', 'ignore')}#{hashed}"
        return alarm_id

    def _labels_text(self, labels: Mapping[str, str]) -> str:
        text = matchers_of(labels, self._without)
        return f"{{{text}}}" if text else ""


def _own(alert: Alert) -> Mapping[str, str]:
    return {"name": alert.name, "severity": alert.severity}


def _rejected(reason: str, detail: str, alert: Alert) -> Rejection:
    told = {
        "name": alert.name,
        "labels": dict(alert.labels),
        "user": alert.user,
        "hints": dict(alert.hints),
        "resolved": alert.resolved,
        "severity": alert.severity,
    }
    return rejected(reason, detail, told)
