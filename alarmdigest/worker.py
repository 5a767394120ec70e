"""One worker: a queue of routed batches, and the alarm book of its users."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from alarmdigest import failpoints
from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.batches import Outgoing, Routed
from alarmdigest.checkpoint import Barrier, Checkpointer
from alarmdigest.histogram import Histogram
from alarmdigest.threads import TICK_S, ServiceThread, put_patiently

# At each barrier so much of the book is searched for alarms to forget: all of it in half a minute
# of checkpoints a second, in steps that hold up nobody.
SWEEP_FRACTION = 30
SWEEP_AT_LEAST = 4096


class Worker(ServiceThread):
    """Merges what is routed to it and hands the digests to the publisher.

    ``merged_bytes`` counts what it has worked off: the client thread compares it with what it has
    handed over, so neither has to take a lock for the backlog. ``waited`` is how long batches took
    from the socket to here, ``merging`` how long they were worked on; each once for a batch.
    """

    def __init__(
        self,
        number: int,
        book: AlarmBook,
        digests: queue.Queue[Outgoing | Barrier | None],
        checkpointer: Checkpointer,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__(f"worker-{number}", on_failure)
        self.book = book
        # Not bounded by itself: the client thread must never wait for a worker, so it is the one
        # that bounds, in bytes over all workers (see listener.py). None ends the worker.
        self.queue: queue.Queue[Routed | Barrier | None] = queue.Queue()
        self.merged_bytes = 0
        self.waited = Histogram()
        self.merging = Histogram()
        self._digests = digests
        self._checkpointer = checkpointer

    def work(self) -> None:
        while True:
            self.beat()
            try:
                item = self.queue.get(timeout=TICK_S * 5)
            except queue.Empty:
                continue
            if item is None:
                break
            if isinstance(item, Barrier):
                self._meet(item)
            else:
                self._merge(item)
                self.merged_bytes += len(item)
        put_patiently(self._digests, None, self.beat)

    def _merge(self, batch: Routed) -> None:
        position = 0
        merging_s = 0.0
        started = time.monotonic()
        self.waited.observe(started - batch.read_at)
        while position < len(batch):
            before = self.book.answered
            made, position = self.book.merge(batch.records, position)
            merging_s += time.monotonic() - started
            if made:
                outgoing = Outgoing(made, batch.read_at, self.book.answered - before)
                # Digests are never dropped: a publisher that cannot publish makes us wait.
                put_patiently(self._digests, outgoing, self.beat)
            started = time.monotonic()
        self.merging.observe(merging_s)

    def _meet(self, barrier: Barrier) -> None:
        """Hand over what has changed since the last barrier, as bytes of their own."""
        self.book.sweep(
            barrier.arrival_ns, max(SWEEP_AT_LEAST, self.book.alarm_count // SWEEP_FRACTION)
        )
        rows = []
        while chunk := self.book.take_rows():
            rows.append(chunk)
        self._checkpointer.rows_taken(barrier, rows, self.book.block_count)
        failpoints.reach("worker.rows_taken")
        put_patiently(self._digests, barrier, self.beat)
