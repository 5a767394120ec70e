"""Changing the schedules in their bucket, so that two who change the same one lose nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable

from alarmdigest.connect.bucket_reader import entries_from
from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.publishing import BatchJetStream, Outgoing
from alarmdigest.connect.schedule.bucket import key_of
from alarmdigest.connect.schedule.entries import Entry, packed, unpacked
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import JetStreamError, NatsError
from alarmdigest.nats.jetstream import WRONG_LAST_SEQUENCE

ATTEMPTS = 50
LONGEST_PAUSE_S = 0.1


def read_all(js: BatchJetStream, info: StreamInfo) -> list[Entry]:
    """Of everybody, that of all others first, then in the order of the ids. What is no entry is
    left out. Raises what JetStream's requests raise."""
    found: dict[str | None, Entry] = {}
    if info.messages == 0:
        return []
    for _sequence, body in entries_from(js, info, 1):
        try:
            entry = unpacked(body)
        except ValueError:
            continue
        found[entry.user] = entry
    there = [entry for entry in found.values() if not entry.removed]
    return sorted(there, key=lambda entry: (entry.user is not None, entry.user or ""))


def change(
    js: BatchJetStream, bucket: BucketConfig, user: str | None, edit: Callable[[Entry], Entry]
) -> Entry:
    """Replace an entry by what ``edit`` makes of it, once more if somebody else was faster; the
    entry that stands there then.

    Raises ValueError for an entry that is there and is none, what ``edit`` raises, and what
    JetStream's requests raise.
    """
    subject = bucket.subject(key_of(user))
    for _attempt in range(ATTEMPTS):
        before, sequence = _entry_of(js, bucket, user)
        entry = edit(before)
        headers = f"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: {sequence}\r\n\r\n"
        try:
            js.publish(subject, packed(entry), headers.encode(), meant=(bucket.stream, js.home))
        except JetStreamError as error:
            if error.err_code not in WRONG_LAST_SEQUENCE:
                raise
            # Whoever is slower must have a chance, too.
            time.sleep(random.uniform(0, LONGEST_PAUSE_S))
            continue
        return entry
    raise NatsError(f"somebody else changes {key_of(user)} of {bucket.name} too: try again")


def _entry_of(js: BatchJetStream, bucket: BucketConfig, user: str | None) -> tuple[Entry, int]:
    """And its sequence; 0 where there is none."""
    subject = f"$KV.{bucket.name}.{key_of(user)}"
    found = js.find_message(bucket.stream, {"last_by_subj": subject})
    if found is None:
        return Entry(user, removed=True), 0
    if not found.payload:  # a deletion
        return Entry(user, removed=True), found.seq
    return unpacked(found.payload), found.seq


def write_all(js: BatchJetStream, bucket: BucketConfig, entries: Iterable[Entry]) -> list[str]:
    """Put them there, whatever was; what went wrong, a sentence for each kind.

    Raises what JetStream's requests raise.
    """
    messages = [
        Outgoing(bucket.stream, bucket.subject(key_of(entry.user)), packed(entry))
        for entry in entries
    ]
    problems = {outcome.problem for outcome in js.publish_all(messages) if outcome.problem}
    return sorted(problems)
