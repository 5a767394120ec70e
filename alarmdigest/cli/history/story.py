"""What became of each message of one user: the rule applied by the service's own alarm book, and
what the digest stream holds beside it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import orjson

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.cli.history.deliveries import Delivery
from alarmdigest.cli.history.found_digests import FoundDigest, FoundDigests
from alarmdigest.cli.history.input_scan import Input
from alarmdigest.pipeline.outcomes import Outcome, merge_one
from alarmdigest.pipeline.packed_records import event_like, messages_in
from alarmdigest.wire.messages import STATUSES

SPLIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Known:
    """The latest of an alarm. ``digest`` is the place of the one that told it, ``missing_for`` the
    request that should have had it told and has no digest; 0 where there is none, or none known."""

    alarm_id: str
    status: int
    changed_ns: int
    digest: int = 0
    missing_for: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One message and its outcome, a word:

    of an event ``new``, ``merged``, ``late``, ``repeated``, ``anew`` (its alarm was forgotten) or
    ``rejected``; of a request ``digest``, ``nothing_due``, ``not_answered`` (yet), ``missing`` (a
    digest is expected, and is not there), ``unknown`` (either that, or told before all that is
    known here) or ``rejected``; ``forgotten`` of a user to forget.
    """

    message: Input
    outcome: str
    complete: bool
    """Whether all that the stream ever held of the user was read before it."""
    digests: list[int] = field(default_factory=list)
    """Places in the digest stream."""
    ids: list[str] = field(default_factory=list)
    """Of these messages."""
    scheduled: str = ""
    """Of a request: for when a scheduler sent it, as it says; empty for another one's."""
    deliveries: list[Delivery] = field(default_factory=list)
    """What became of the digest on its way to people, as far as it is kept."""
    alarms: list[tuple[str, int]] = field(default_factory=list)
    """Those of the digest, or those that are due; ids with status."""
    told: list[Known] = field(default_factory=list)
    """Active alarms that are not due, where nothing is."""
    latest: Known | None = None
    """Of a late event: the one that counts."""
    due_by_it: bool = False
    """Whether a late event makes its alarm due: it is a change since what was told."""
    only_alarm: str | None = None
    """Of a request, where one alarm was asked for: that, and what is known of it by then."""
    only_latest: Known | None = None


class Story:
    """``complete``: whether all that the stream ever held is read, from its first message on."""

    def __init__(
        self, digests: FoundDigests, *, retention_ns: int, stream: str, complete: bool
    ) -> None:
        self._digests = digests
        self.complete = complete
        self._book = AlarmBook(
            retention_ns=retention_ns,
            split_bytes=SPLIT_BYTES,
            secret=bytes(16),
            stream=stream.encode(),
        )
        self.events = self.requests = 0
        self._latest: dict[str, Known] = {}
        # Alarms whose state is known though what came before is not: a digest has told it.
        self._certain: set[str] = set()

    def step(self, message: Input) -> Step:
        """The next message."""
        if message.reason:
            return Step(message, "rejected", self.complete)
        if message.kind == "event":
            return self._event(message)
        if message.kind == "request":
            return self._request(message)
        self._merge(message.record)
        self._latest.clear()
        self.complete = True
        return Step(message, "forgotten", complete=True)

    def know_less(self) -> None:
        """Messages were deleted: what was known may not hold any more."""
        self.complete = False
        self._certain.clear()

    def latest_of(self, alarm_id: str) -> Known | None:
        return self._latest.get(alarm_id)

    def active(self) -> list[Known]:
        """Active alarms as far as they are known."""
        return [one for one in self._latest.values() if one.status]

    @property
    def due_count(self) -> int:
        return self._book.due_count

    def _merge(self, record: bytes) -> tuple[bytes, Outcome]:
        return merge_one(self._book, record, 0, len(record))

    def _event(self, message: Input) -> Step:
        self.events += 1
        due = self._book.due_count
        _made, outcome = self._merge(message.record)
        if outcome == "late":
            return Step(
                message,
                outcome,
                self.complete,
                latest=self._latest.get(message.alarm_id),
                due_by_it=self._book.due_count > due,
            )
        if outcome != "repeated":
            # What was told of an earlier state does not hold for this one.
            self._latest[message.alarm_id] = Known(
                message.alarm_id, message.status, message.changed_ns
            )
        return Step(message, outcome, self.complete)

    def _request(self, message: Input) -> Step:
        self.requests += 1
        place = (message.sequence, message.stored_ns)
        found = self._digests.by_request.pop(place, None)
        if found is not None:
            return self._answered(message, found)
        made, _outcome = self._merge(message.record)
        expected = [
            (alarm["AlarmID"], STATUSES[alarm["Status"]])
            for _headers, body in messages_in(made)
            for alarm in orjson.loads(body)["ActiveAlarms"]
        ]
        if not expected:
            return Step(message, "nothing_due", self.complete, told=self.active())
        if (message.stored_ns, message.sequence) > self._digests.stored_through[::-1]:
            outcome = "not_answered"
        else:
            # The service may have known better of what was never in a digest that we have read.
            certain = [one for one in expected if self.complete or one[0] in self._certain]
            outcome, expected = ("missing", certain) if certain else ("unknown", expected)
        if outcome != "unknown":
            for alarm, _status in expected:
                self._latest[alarm] = replace(self._latest[alarm], missing_for=message.sequence)
        return Step(message, outcome, self.complete, alarms=expected)

    def _answered(self, message: Input, found: FoundDigest) -> Step:
        """What the digest says is right, also where it goes by events that were not read here."""
        for alarm, status, changed_ns in found.alarms:
            self._merge(event_like(message.record, alarm, status, changed_ns))
            self._latest[alarm] = Known(alarm, status, changed_ns, digest=found.sequences[0])
            self._certain.add(alarm)
        self._merge(message.record)
        alarms = [(alarm, status) for alarm, status, _changed_ns in found.alarms]
        return Step(
            message,
            "digest",
            self.complete,
            digests=found.sequences,
            ids=found.ids,
            alarms=alarms,
        )
