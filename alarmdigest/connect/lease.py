"""Of several processes that could act, one does: who holds an entry of a bucket, for a while.

The entry names its holder and for how long it is held, and is replaced by compare-and-set
(``Nats-Expected-Last-Subject-Sequence``), so of two who want it one gets it. No clock is compared
with another: who waits takes the entry over once *his own* monotonic clock says that it has stood
unchanged for as long as it is held. The holder counts from before it asked, the one who waits from
after he saw it; so one stops to act before the other begins, unless their clocks run at different
rates (``CLOCK_MARGIN`` is for that).
"""

from __future__ import annotations

import secrets
import time
from typing import NamedTuple

import orjson

from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.publishing import BatchJetStream
from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.jetstream import WRONG_LAST_SEQUENCE

# The holder stops so much earlier than it might, as a part of the duration.
CLOCK_MARGIN = 0.05
# What a record may claim at most: anybody who may can write there.
LONGEST_S = 600.0


class _Record(NamedTuple):
    """An entry as it was read. ``holder`` is empty where nobody holds it."""

    sequence: int
    holder: str
    duration_s: float
    body: bytes


_NOBODY = _Record(0, "", 0.0, b"")


class Lease:
    """For one thread. ``js`` may be replaced, after a reconnect for instance: what was seen of the
    entry stays known.

    ``holder`` is who holds it, as last seen; empty for nobody. ``terms`` counts how often it became
    ours: it stays the same while nobody else can have held it in between.
    """

    def __init__(
        self, js: BatchJetStream, bucket: BucketConfig, key: str, holder: str, duration_s: float
    ) -> None:
        """``holder`` is our own name, which nobody else may have. Who holds the lease renews it
        a few times in ``duration_s`` seconds; so long the others wait when it is gone."""
        self.js = js
        self._bucket = bucket
        self._key = key
        self._me = holder
        self._duration_s = duration_s
        self._seen = _NOBODY
        self._seen_at = time.monotonic()
        self._held_until = 0.0
        self._continues = False
        self.terms = 0

    @property
    def holder(self) -> str:
        return self._seen.holder

    @property
    def held(self) -> bool:
        """Whether it is ours at this moment; ask before each step that only one may do."""
        return time.monotonic() < self._held_until

    def try_acquire(self) -> bool:
        """Take it, or renew it; whether it is ours now.

        Raises what JetStream's requests raise. It stays ours then until its time is over: ``held``.
        """
        if self._seen.holder != self._me or not self.held:
            self._look()
        if self._seen.holder in (self._me, "") or self._stood_long_enough():
            return self._write(self._me)
        return False

    def release(self) -> None:
        """Let the others have it at once. Raises what JetStream's requests raise: it ends by itself
        then."""
        mine, self._held_until = self._seen.holder == self._me, 0.0
        if mine:
            self._write("")

    def _stood_long_enough(self) -> bool:
        return time.monotonic() - self._seen_at > self._seen.duration_s

    def _look(self) -> None:
        found = self.js.find_message(
            self._bucket.stream, {"last_by_subj": f"$KV.{self._bucket.name}.{self._key}"}
        )
        if found is None:
            record = _NOBODY
        else:
            holder, duration_s = _read(found.payload, self._duration_s)
            record = _Record(found.seq, holder, duration_s, found.payload)
        if record != self._seen:
            self._seen, self._seen_at = record, time.monotonic()
        if record.holder != self._me:
            self._held_until, self._continues = 0.0, False

    def _write(self, holder: str) -> bool:
        """Whether the entry says so now."""
        body = orjson.dumps(
            # Two renewals differ: what stands there can be told from what we have just written.
            {"holder": holder, "duration_s": self._duration_s, "renewal": secrets.token_hex(8)}
        )
        headers = (
            "NATS/1.0\r\n"
            f"Nats-Expected-Stream: {self._bucket.stream}\r\n"
            f"Nats-Expected-Last-Subject-Sequence: {self._seen.sequence}\r\n\r\n"
        )
        asked_at = time.monotonic()
        try:
            ack = self.js.publish(
                self._bucket.subject(self._key),
                body,
                headers.encode(),
                meant=(self._bucket.stream, self.js.home),
            )
            sequence = ack.sequence
        except JetStreamError as error:
            self._look()
            if self._seen.body != body:
                if error.err_code not in WRONG_LAST_SEQUENCE:
                    raise
                # Ours for as long as before where it is a renewal of ours whose PubAck was lost.
                return self.held
            sequence = self._seen.sequence  # it was another domain's stream that refused
        self._seen = _Record(sequence, holder, self._duration_s, body)
        self._seen_at = time.monotonic()
        if holder:
            self._held_until = asked_at + self._duration_s * (1 - CLOCK_MARGIN)
            self.terms += not self._continues
        self._continues = bool(holder)
        return bool(holder)


def _read(body: bytes, duration_s: float) -> tuple[str, float]:
    """Holder and duration. What is no record of ours holds it as long as one of ours would."""
    try:
        record = orjson.loads(body)
        holder, held_s = record["holder"], record["duration_s"]
    except (ValueError, KeyError, TypeError):
        return "?", duration_s
    if not isinstance(holder, str) or not isinstance(held_s, (int, float)):
        return "?", duration_s
    return holder, min(max(held_s, 0.0), LONGEST_S)
