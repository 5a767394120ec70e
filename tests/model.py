"""The digest rule in plain Python: what the compiled core is tested against.

Written from the contract alone and for reading, not for speed. An alarm keeps every event that
ever reached it, and each word of the rule (latest, active, sent, changed, due) is one short
property over that set. The second half reads message bodies with the standard library only.

All times are integer nanoseconds since 1970 UTC. How deeply a body may be nested is out of
scope: the standard library raises RecursionError where orjson has a limit of its own.
"""

from __future__ import annotations

import json
import math
import re
import string
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

SECOND_NS = 10**9
SKEW_NS = 3600 * SECOND_NS
RETENTION_NS = 7 * 86400 * SECOND_NS
MAX_ID_BYTES = 1024


class Status(IntEnum):
    """The three words, in the order that decides between events of equal time."""

    CLEARED = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True)
class Event:
    """An alarm's status at a time. `changed_at` is what the publisher wrote, not yet clamped."""

    user: str
    alarm: str
    status: Status
    changed_at: int


@dataclass(frozen=True)
class Request:
    """Somebody asks for one user's digest."""

    user: str


@dataclass(frozen=True)
class Forget:
    """A user is to be forgotten: all memory of him ends here."""

    user: str


Message = Event | Request | Forget


@dataclass(frozen=True)
class Entry:
    """One alarm in a digest; `changed_at` is the time of its latest event, after clamping."""

    alarm: str
    status: Status
    changed_at: int


@dataclass(frozen=True)
class Digest:
    """What one request publishes, before it is split to the server's `max_payload`."""

    user: str
    entries: tuple[Entry, ...]


class Key(NamedTuple):
    """An event as its alarm sees it. Tuples compare as the contract orders events."""

    changed_at: int
    status: Status


@dataclass
class _Alarm:
    """All that has reached one alarm: each distinct event with the arrival of its first copy."""

    seen: dict[Key, int] = field(default_factory=dict)
    sent: Key | None = None

    @property
    def latest(self) -> Key:
        return max(self.seen)

    @property
    def active(self) -> bool:
        return self.latest.status != Status.CLEARED

    @property
    def changed(self) -> bool:
        sent = self.sent
        return sent is not None and any(
            key > sent and key.status != sent.status for key in self.seen
        )

    @property
    def due(self) -> bool:
        return self.active and (self.sent is None or self.changed)

    def forgotten(self, arrival_ns: int, retention_ns: int) -> bool:
        return not self.active and arrival_ns - self.seen[self.latest] > retention_ns


class Model:
    """One service's whole state, fed one message at a time in order of arrival.

    `clamped` counts the events whose time lay beyond arrival + skew, repeats included.
    """

    def __init__(
        self,
        *,
        skew_ns: int = SKEW_NS,
        retention_ns: int = RETENTION_NS,
        publish_empty: bool = False,
    ) -> None:
        self.clamped = 0
        self._skew_ns = skew_ns
        self._retention_ns = retention_ns
        self._publish_empty = publish_empty
        self._arrival_ns: int | None = None
        self._users: dict[str, dict[str, _Alarm]] = {}

    def apply(self, message: Message, arrival_ns: int) -> Digest | None:
        """Take one message and return the digest it publishes, if any.

        `arrival_ns` is the arrival as the contract defines it, the running maximum already
        taken. One that goes back is a mistake in the test, so it raises ValueError.
        """
        if self._arrival_ns is not None and arrival_ns < self._arrival_ns:
            raise ValueError("arrivals never go back")
        self._arrival_ns = arrival_ns
        self._forget(arrival_ns)
        if isinstance(message, Event):
            self._record(message, arrival_ns)
            return None
        if isinstance(message, Forget):
            self._users.pop(message.user, None)
            return None
        return self._digest(message.user)

    @property
    def active_count(self) -> int:
        return sum(alarm.active for alarms in self._users.values() for alarm in alarms.values())

    @property
    def due_count(self) -> int:
        return sum(alarm.due for alarms in self._users.values() for alarm in alarms.values())

    def worst_due(self) -> dict[str, Status]:
        """Of each user with due alarms, the worst status of these."""
        found = {}
        for user, alarms in self._users.items():
            due = [alarm.latest.status for alarm in alarms.values() if alarm.due]
            if due:
                found[user] = max(due)
        return found

    def _forget(self, arrival_ns: int) -> None:
        """Drop what is past retention before the message is looked at.

        Doing so at every message is what "forgotten whether swept or not" means.
        """
        for alarms in self._users.values():
            for name, alarm in list(alarms.items()):
                if alarm.forgotten(arrival_ns, self._retention_ns):
                    del alarms[name]

    def _record(self, event: Event, arrival_ns: int) -> None:
        changed_at = event.changed_at
        if changed_at > arrival_ns + self._skew_ns:
            changed_at = arrival_ns + self._skew_ns
            self.clamped += 1
        alarm = self._users.setdefault(event.user, {}).setdefault(event.alarm, _Alarm())
        # A repeat is the same event: it does not count as arriving anew for the retention.
        alarm.seen.setdefault(Key(changed_at, event.status), arrival_ns)

    def _digest(self, user: str) -> Digest | None:
        due = {name: alarm for name, alarm in self._users.get(user, {}).items() if alarm.due}
        for alarm in due.values():
            alarm.sent = alarm.latest
        entries = [
            Entry(name, alarm.latest.status, alarm.latest.changed_at) for name, alarm in due.items()
        ]
        entries.sort(key=lambda entry: (entry.changed_at, entry.alarm.encode()))
        if not entries and not self._publish_empty:
            return None
        return Digest(user, tuple(entries))


# Times

_EPOCH_DAY = date(1970, 1, 1).toordinal()


def _midnight(year: int, month: int, day: int) -> int:
    return (date(year, month, day).toordinal() - _EPOCH_DAY) * 86400 * SECOND_NS


EARLIEST = _midnight(1677, 9, 22)  # the first whole day that 64 bits hold
BEYOND = _midnight(2262, 4, 11)  # the first instant after the last whole day that they hold
FAR_FUTURE = 2**63 - 1  # stands for every time from BEYOND on; only ever seen clamped

_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"[Tt]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)"
    r"(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)


def parse_time(text: str) -> int:
    """Read a `ChangedAt`; ValueError where the contract refuses it."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time with a zone")
    year, month, day, hour, minute, second, fraction, sign, offset_h, offset_m = match.groups()
    # Second 60 needs no care here: it is the first second of the next minute by arithmetic.
    seconds = int(hour) * 3600 + int(minute) * 60 + int(second)
    if sign is not None:
        offset = int(offset_h) * 3600 + int(offset_m) * 60
        seconds += offset if sign == "-" else -offset
    nanoseconds = int((fraction or "")[:9].ljust(9, "0")) if second != "60" else 0
    # A day that does not exist, the year 0000 among them, is a ValueError of date itself.
    instant = _midnight(int(year), int(month), int(day)) + seconds * SECOND_NS + nanoseconds
    if instant < EARLIEST:
        raise ValueError("before 1677-09-22")
    return instant if instant < BEYOND else FAR_FUTURE


def format_time(ns: int) -> str:
    """Write a time as `LatestChangedAt` has it: UTC, nine digits, Z."""
    seconds, nanoseconds = divmod(ns, SECOND_NS)
    return f"{(datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat()}.{nanoseconds:09d}Z"


# Bodies

_STATUSES = {status.name: status for status in Status}
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def read_event(body: bytes) -> Event | str:
    """Read an `AlarmStatusChanged` body, or say in one word why it is refused."""
    fields = _read_fields(body, "UserID", "AlarmID", "Status", "ChangedAt")
    if isinstance(fields, str):
        return fields
    user, alarm, status, changed_at = fields
    if _too_long(user) or _too_long(alarm):
        return "too_long"
    if status not in _STATUSES:
        return "status"
    try:
        return Event(user, alarm, _STATUSES[status], parse_time(changed_at))
    except ValueError:
        return "changed_at"


def read_request(body: bytes) -> Request | str:
    """Read a `SendAlarmDigest` body, or say in one word why it is refused."""
    fields = _read_fields(body, "UserID")
    if isinstance(fields, str):
        return fields
    return "too_long" if _too_long(fields[0]) else Request(fields[0])


def read_forget(body: bytes) -> Forget | str:
    """Read a `ForgetUser` body, or say in one word why it is refused."""
    found = read_request(body)
    return found if isinstance(found, str) else Forget(found.user)


def _too_long(name: str) -> bool:
    return len(name.encode()) > MAX_ID_BYTES


def _read_fields(body: bytes, *names: str) -> list[str] | str:
    """The named fields of a JSON object, all of them non-empty strings, or the reason word."""
    try:
        document = _strict_json(body)
    except ValueError:
        return "json"
    if not isinstance(document, tuple):
        return "schema"
    values = []
    for name in names:
        value = _look_up(document, name)
        if not isinstance(value, str) or not value:
            return "schema"
        values.append(value)
    return values


def _look_up(pairs: tuple[tuple[str, object], ...], name: str) -> object:
    """The value of a field: the last exact spelling, else the last in any ASCII case."""
    exact = [value for key, value in pairs if key == name]
    folded = [value for key, value in pairs if _fold(key) == _fold(name)]
    candidates = exact or folded
    return candidates[-1] if candidates else None


def _fold(name: str) -> str:
    # str.lower would also fold the Kelvin sign to k, which is no ASCII case.
    return name.translate(_ASCII_LOWER)


def _strict_json(body: bytes) -> object:
    """Parse as orjson would, an object becoming the tuple of its pairs in the order written.

    The standard library is laxer in four ways: it guesses UTF-16 and UTF-32 from bytes (so it
    gets text), knows NaN and Infinity, rounds 1e400 to infinity and lets half a surrogate pair
    through. Each is a ValueError here.
    """
    document: object = json.loads(
        body.decode("utf-8"),
        object_pairs_hook=tuple,
        parse_constant=_refuse_constant,
        parse_int=_finite,
        parse_float=_finite,
    )
    # Every name and string of the document, however deep, must exist in UTF-8.
    json.dumps(document, ensure_ascii=False).encode("utf-8")
    return document


def _refuse_constant(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("no double holds this number")
    return number
