"""A digest as it comes, and the parts of a split one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from alarmdigest._ext import timestamps
from alarmdigest.connect.deliver.consumer import Arrived
from alarmdigest.connect.deliver.message import CRITICAL, WARNING
from alarmdigest.wire.messages import MAX_ID_BYTES

# What a part holds at least that another one follows: a split digest's parts have 16 KiB at least,
# and an alarm that did not fit any more less than 7.
FULL_PART_BYTES = 9 * 1024


class Alarm(NamedTuple):
    alarm_id: str
    status: str
    since_ns: int


@dataclass(slots=True)
class Digest:
    """One that we hold: delivered, not acknowledged. ``request`` is the same for all parts of one
    digest, empty where it is not told. ``reply`` changes when it is delivered again, and ``again``
    says that it was, or may have been, before we held it."""

    sequence: int
    at_ns: int
    reply: bytes
    digest_id: str
    request: str
    user_id: str
    alarms: tuple[Alarm, ...]
    body: bytes
    again: bool
    #: Bytes that are held besides the body, roughly: of the message that was made of it.
    weight: int = 0


class Unreadable(Exception):
    """What stands in the stream of digests is none: says why."""


def read_digest(arrived: Arrived, stream: str, *, again: bool) -> Digest:
    """Raises Unreadable: anybody who may can publish there."""
    headers = headers_of(arrived.headers)
    try:
        told = orjson.loads(arrived.body)
        user_id = told["UserID"]
        alarms = tuple(
            Alarm(
                _text(one["AlarmID"]),
                _status(one["Status"]),
                timestamps.to_ns(one["LatestChangedAt"]),
            )
            for one in told["ActiveAlarms"]
        )
        if not isinstance(user_id, str) or not user_id:
            raise ValueError("it names no user")
        ids = (user_id, *(alarm.alarm_id for alarm in alarms))
        if max(len(one.encode()) for one in ids) > MAX_ID_BYTES:
            raise ValueError(f"an id has more than {MAX_ID_BYTES} bytes")
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"this is no digest: {type(error).__name__} {error}"[:200]) from error
    return Digest(
        arrived.sequence,
        arrived.at_ns,
        arrived.reply,
        headers.get("nats-msg-id") or f"{stream}-{arrived.sequence}",
        headers.get("alarmdigest-request", ""),
        user_id,
        alarms,
        arrived.body,
        again,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")
    return value


def _status(value: object) -> str:
    if value not in (WARNING, CRITICAL):
        raise ValueError(f"{value!r:.40} is no status of an active alarm")
    return str(value)


def headers_of(block: bytes) -> dict[str, str]:
    """By name in lower case; of several with one name the first."""
    found: dict[str, str] = {}
    for line in block.decode("utf-8", "replace").split("\r\n")[1:]:
        name, separator, value = line.partition(":")
        if separator:
            found.setdefault(name.strip().lower(), value.strip())
    return found


def key_of_id(digest_id: str) -> str:
    """As a part of a key in a bucket: ids may hold anything."""
    return hashlib.sha256(digest_id.encode()).hexdigest()[:32]


@dataclass(slots=True)
class _Open:
    request: str
    parts: list[Digest]
    ends_at: float


class Assembler:
    """Puts the parts of a digest together; times in seconds of one clock.

    Digests of a user come in order, and the parts of one behind each other. So a part that is too
    small to be followed ends its digest, and so does another request of the user; only what is
    large waits for ``wait_s``, and holds up only its own user.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._open: dict[str, _Open] = {}

    def add(self, digest: Digest, now: float) -> list[list[Digest]]:
        """The digests that are whole now, each as its parts."""
        whole: list[list[Digest]] = []
        one = self._open.pop(digest.user_id, None)
        if one is not None and one.request == digest.request:
            parts = [*one.parts, digest]
        else:
            if one is not None:
                whole.append(one.parts)
            parts = [digest]
        if digest.request and len(digest.body) > FULL_PART_BYTES:
            self._open[digest.user_id] = _Open(digest.request, parts, now + self._wait_s)
        else:
            whole.append(parts)
        return whole

    def due(self, now: float) -> list[list[Digest]]:
        """Those that have waited long enough."""
        users = [user for user, one in self._open.items() if one.ends_at <= now]
        return [self._open.pop(user).parts for user in users]

    @property
    def next_at(self) -> float | None:
        return min((one.ends_at for one in self._open.values()), default=None)

    def clear(self) -> None:
        self._open.clear()


def ids_of(parts: Iterable[Digest]) -> tuple[str, ...]:
    return tuple(part.digest_id for part in parts)
