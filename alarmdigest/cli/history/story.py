"""What became of each message of one user: the rule applied by the service's own alarm book, and
what the digest stream holds beside it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import orjson

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.cli.history.found_digests import FoundDigest
from alarmdigest.cli.history.input_scan import Input
from alarmdigest.wire.messages import STATUSES

WORDS: Final = {number: word for word, number in STATUSES.items()}
SPLIT_BYTES = 64 * 1024 * 1024
# An outgoing record (ext/wire/records.pxd): headers, body, kind, user, arrival.
_OUTGOING: Final = struct.Struct("<IIIIq")


@dataclass(frozen=True, slots=True)
class Step:
    """One message and its outcome, a word:

    of an event ``new``, ``merged``, ``late``, ``repeated``, ``anew`` (its alarm was forgotten) or
    ``rejected``; of a request ``digest``, ``nothing due``, ``told before`` (by what is not known
    here), ``missing`` (a digest is expected, and is not there) or ``rejected``; ``forgotten`` of
    a user to forget.
    """

    message: Input
    outcome: str
    digests: list[int] = field(default_factory=list)
    """Places in the digest stream."""
    alarms: list[tuple[str, str]] = field(default_factory=list)
    """Those of the digest, or those that are due; ids with status."""
    quiet: list[tuple[str, str, int]] = field(default_factory=list)
    """Active alarms that are not due: id, status, and the digest that told it, 0 if not known."""
    latest: tuple[int, int] | None = None
    """Of a late event: time and status of the one that counts."""


class Story:
    """``complete``: whether all that the user ever had is read, so that nothing is unknown."""

    def __init__(
        self,
        digests: dict[int, FoundDigest],
        *,
        retention_ns: int,
        stream: str,
        complete: bool,
    ) -> None:
        self._digests = digests
        self._complete = complete
        self._book = AlarmBook(
            retention_ns=retention_ns,
            split_bytes=SPLIT_BYTES,
            secret=bytes(16),
            stream=stream.encode(),
        )
        self._latest: dict[str, tuple[int, int]] = {}
        self._told: dict[str, int] = {}

    def step(self, message: Input) -> Step:
        """The next message."""
        if message.reason:
            return Step(message, "rejected")
        if message.kind == "event":
            return self._event(message)
        if message.kind == "request":
            return self._request(message)
        self._merge(message)
        self._latest.clear()
        self._told.clear()
        return Step(message, "forgotten")

    def active(self) -> list[tuple[str, str, int]]:
        """Active alarms as far as they are known: id, status, and the digest that told it."""
        return [
            (alarm, WORDS[status], self._told.get(alarm, 0))
            for alarm, (_time, status) in self._latest.items()
            if status
        ]

    @property
    def due_count(self) -> int:
        return self._book.due_count

    def _merge(self, message: Input) -> bytes:
        made, position = self._book.merge(message.record)
        assert position == len(message.record)
        return made

    def _event(self, message: Input) -> Step:
        before, known = self._book.counters, self._book.alarm_count
        self._merge(message)
        after = self._book.counters
        latest = self._latest.get(message.alarm_id)
        for name in ("late", "repeated"):
            if after[name] > before[name]:
                return Step(message, name, latest=latest if name == "late" else None)
        self._latest[message.alarm_id] = (message.changed_ns, message.status)
        if after["forgotten"] > before["forgotten"]:
            self._told.pop(message.alarm_id, None)
            return Step(message, "anew")
        return Step(message, "new" if self._book.alarm_count > known else "merged")

    def _request(self, message: Input) -> Step:
        expected = list(_alarms_in(self._merge(message)))
        found = self._digests.pop(message.sequence, None)
        if found is not None:
            for alarm, _status in found.alarms:
                self._told[alarm] = found.sequences[0]
            return Step(message, "digest", digests=found.sequences, alarms=found.alarms)
        if not expected:
            return Step(message, "nothing due", quiet=self.active())
        outcome = "missing" if self._complete else "told before"
        return Step(message, outcome, alarms=expected)


def _alarms_in(outgoing: bytes) -> Iterator[tuple[str, str]]:
    """Of the digests in outgoing records."""
    position = 0
    while position < len(outgoing):
        headers_len, body_len, *_ = _OUTGOING.unpack_from(outgoing, position)
        start = position + _OUTGOING.size + headers_len
        digest = orjson.loads(outgoing[start : start + body_len])
        yield from ((one["AlarmID"], one["Status"]) for one in digest["ActiveAlarms"])
        position += -(-(_OUTGOING.size + headers_len + body_len) // 8) * 8
