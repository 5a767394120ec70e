"""Everybody's schedule, kept up to date with the bucket."""

from __future__ import annotations

import logging
from collections.abc import Callable

from alarmdigest.connect.bucket_reader import entries_from
from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.schedule.bucket import EVERYBODY
from alarmdigest.connect.schedule.entries import Entry, unpacked
from alarmdigest.connect.schedule.timetable import timetable_of
from alarmdigest.nats.errors import StreamMissing
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.runtime.logs import LimitedLog, Untrusted

log = logging.getLogger(__name__)

NOTHING = Entry(EVERYBODY)
# One that is wrong takes some milliseconds.
ENTRIES_AT_ONCE = 100


class Schedules:
    """For one thread. ``unreadable`` counts entries that are none; what stood there before counts
    on."""

    def __init__(self, bucket: BucketConfig) -> None:
        self._bucket = bucket
        self._default = NOTHING
        self._users: dict[str, Entry] = {}
        self._created = ""
        self._read_through = 0
        self._warn = LimitedLog(log, logging.WARNING)
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self._users)

    @property
    def has_default(self) -> bool:
        return self._default.schedule is not None

    def due_at(
        self, user: str, since_ns: int, critical: bool, not_before_ns: int = 0
    ) -> int | None:
        """When a user is to be told, in ns since 1970; None without a schedule."""
        entry = self._users.get(user, NOTHING)
        schedule = entry.schedule or self._default.schedule
        if schedule is None:
            return None
        paused_ns = entry.paused_until_ns
        if entry.schedule is None:
            paused_ns = max(paused_ns, self._default.paused_until_ns)
        return timetable_of(schedule).due_at(
            since_ns,
            critical=critical,
            paused_until_ns=paused_ns,
            not_before_ns=not_before_ns,
        )

    def forget_all(self) -> None:
        """Have all of it read again."""
        self._created = ""

    def catch_up(self, js: JetStream, now_and_then: Callable[[], None]) -> set[str | None]:
        """Read what has changed: the users that it is about, EVERYBODY among them where that of
        all others is, or all of it was read. ``now_and_then`` is called meanwhile.

        Raises StreamMissing, and what JetStream's requests raise.
        """
        info = js.stream_info(self._bucket.stream)
        if info is None:
            raise StreamMissing(f"the bucket {self._bucket.name} was deleted; we make it again")
        changed: set[str | None] = set()
        if info.created != self._created or info.last_seq < self._read_through:
            self._users, self._default = {}, NOTHING
            self._created, self._read_through = info.created, 0
            changed.add(EVERYBODY)
        if info.last_seq <= self._read_through or info.messages == 0:
            return changed
        try:
            entries = entries_from(js, info, self._read_through + 1)
            for count, (sequence, body) in enumerate(entries, 1):
                if count % ENTRIES_AT_ONCE == 0:
                    now_and_then()
                self._take(body, changed)
                self._read_through = max(self._read_through, sequence)
        except BaseException:
            self._created = ""  # else nobody would hear of what has changed
            raise
        self._read_through = max(self._read_through, info.last_seq)
        return changed

    def _take(self, body: bytes, changed: set[str | None]) -> None:
        if body.startswith(b'{"holder"') or not body:
            return  # the lease, or a deletion: it has no name, and counts from the next start on
        try:
            entry = unpacked(body)
        except ValueError as error:
            self.unreadable += 1
            self._warn("an entry is no schedule", entry=Untrusted(str(body[:80])), reason=error)
            return
        changed.add(entry.user)
        if entry.user is EVERYBODY:
            self._default = NOTHING if entry.removed else entry
        elif entry.removed:
            self._users.pop(entry.user, None)
        else:
            self._users[entry.user] = entry
