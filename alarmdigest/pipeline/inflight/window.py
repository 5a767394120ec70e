"""Batches and barriers in the order in which they were added; a barrier is released when all before
it is confirmed.

Plain data of the publisher's thread. Its confirmer numbers what is added (each message in stream
mode, each batch in core mode); all below one number are confirmed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.state.position import Outputs, ReplicaPosition

MAX_UNCONFIRMED_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class InFlightBatch:
    """Outgoing records with the numbers ``first`` … ``first + count - 1``."""

    records: bytes
    first: int
    count: int
    #: When requests were read, and how many, whose digests an earlier run has not sent.
    answers: Sequence[tuple[float, int]] = ()
    on_confirmed: Sequence[Callable[[], None]] = ()
    sent_at: float | None = None
    added_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class GatheredBarrier:
    """A barrier that has come from every producer, and the output positions when the first came.

    ``made`` is what a replica has made up to there."""

    barrier: Barrier
    outputs: Outputs
    made: ReplicaPosition | None = None


class Window:
    """``bytes`` are those of all batches in it: they are not confirmed completely, or wait for one
    before them that is not. Durations in seconds."""

    def __init__(self) -> None:
        self.entries: deque[InFlightBatch | GatheredBarrier] = deque()
        self.bytes = 0
        # From reading a request to handing its digest to the socket, for each request; waiting for
        # the confirmation, for each batch.
        self.answering = Histogram()
        self.confirming = Histogram()
        self._unsent: deque[InFlightBatch] = deque()

    @property
    def empty(self) -> bool:
        return not self.entries

    @property
    def oldest_unconfirmed_s(self) -> float:
        """How long the first of what is not confirmed has been here; 0 when there is none.

        Any thread may ask.
        """
        for entry in self.entries.copy():
            if isinstance(entry, InFlightBatch):
                return time.monotonic() - entry.added_at
        return 0.0

    @property
    def full(self) -> bool:
        return self.bytes > MAX_UNCONFIRMED_BYTES

    @property
    def batches(self) -> list[InFlightBatch]:
        return [entry for entry in self.entries if isinstance(entry, InFlightBatch)]

    def add(self, batch: InFlightBatch) -> None:
        self.entries.append(batch)
        self._unsent.append(batch)
        self.bytes += len(batch.records)

    def add_barrier(
        self, barrier: Barrier, outputs: Outputs, made: ReplicaPosition | None = None
    ) -> None:
        """Where two of no checkpoint follow each other, the later one tells as much."""
        if not barrier.of_checkpoint and self.entries:
            last = self.entries[-1]
            if isinstance(last, GatheredBarrier) and not last.barrier.of_checkpoint:
                self.entries.pop()
        self.entries.append(GatheredBarrier(barrier, outputs, made))

    def note_sent(self, below: int) -> None:
        """All messages with numbers below this one were sent, or need not be."""
        now = time.monotonic()
        while self._unsent and self._unsent[0].first + self._unsent[0].count <= below:
            batch = self._unsent.popleft()
            batch.sent_at = now
            for age_from, count in batch.answers:
                self.answering.observe(now - age_from, count)

    def release(
        self, below: int, covers: Callable[[Barrier], bool] = lambda _barrier: True
    ) -> list[GatheredBarrier]:
        """Let go what is confirmed: all numbers below this one. Returns the barriers that are
        complete with it, as far as ``covers`` is true of them."""
        complete = []
        while self.entries:
            entry = self.entries[0]
            if isinstance(entry, GatheredBarrier):
                if not covers(entry.barrier):
                    break
                complete.append(entry)
            elif entry.first + entry.count > below:
                break
            else:
                self.bytes -= len(entry.records)
                if self._unsent and self._unsent[0] is entry:
                    self._unsent.popleft()  # somebody else has sent it
                for told in entry.on_confirmed:
                    told()
                if entry.sent_at is not None:
                    self.confirming.observe(time.monotonic() - entry.sent_at)
            self.entries.popleft()
        return complete
