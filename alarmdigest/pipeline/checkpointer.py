"""The thread that writes a checkpoint once everything before its barrier is done.

On reaching a barrier (``barrier.py``), a worker hands over the rows changed since the one before;
the publisher reports when everything before it is confirmed. Then the rows, the position and the
output positions are written to the store, all of it or nothing. One checkpoint is on its way at a
time. The workers do not wait for it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.runtime import failpoints, memory
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.state.position import Outputs, ReplicaPosition
from alarmdigest.store.base import AllRowsNeeded, Checkpoint, Store, StoreError, StoreInUse

log = logging.getLogger(__name__)

RETRY_PAUSE_S = 1.0
TIDY_EVERY_S = 1.0
# What a checkpoint of this size needs is worth returning afterwards.
LARGE_BYTES = 16 * 1024 * 1024


class _Rows(NamedTuple):
    """What a worker hands over at a barrier: its changed rows, packed into chunks of some MiB, and
    how many blocks its book holds: so many rows the store has then."""

    barrier: Barrier
    row_chunks: list[bytes]
    blocks: int


class _Confirmed(NamedTuple):
    """What the publisher says once everything before a barrier is confirmed."""

    barrier: Barrier
    outputs: Outputs
    replica: ReplicaPosition | None


@dataclass(slots=True)
class _Pending:
    """What has come in for a barrier. Kept until it is written, however often that fails, or until
    the store wants all rows with the next one."""

    barrier: Barrier
    row_chunks: list[bytes] = field(default_factory=list)
    blocks: int = 0
    workers: int = 0
    outputs: Outputs | None = None
    replica: ReplicaPosition | None = None


class Checkpointer(ServiceThread):
    """Owns the store once the service runs.

    ``failing_because`` is why the checkpoint that is on its way cannot be written.
    """

    def __init__(
        self,
        store: Store,
        *,
        workers: int,
        content_settings: Mapping[str, int],
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        """``content_settings`` are those that decide what digests hold; they are stored with each
        checkpoint."""
        super().__init__("checkpointer", on_failure)
        self.store = store
        self.completed_at = time.monotonic()
        self.failing_because: str | None = None
        self.written = 0
        self.failures = 0
        self.rows_bytes = 0
        self.write_seconds = 0.0
        self._memory_kept = False
        self._untidy, self._tidy_at = True, 0.0
        # How long barriers took until they were complete: come from every producer, everything
        # before them confirmed, and all rows handed over; and writes.
        self.completing = Histogram()
        self.writing = Histogram()

        self._workers = workers
        self._settings = dict(content_settings)
        # At most one item for each worker and one of the publisher: one
        # barrier of a checkpoint is on its way; others never come here.
        self._queue: queue.Queue[_Rows | _Confirmed | None] = queue.Queue()
        self._pending: _Pending | None = None
        self._trouble = LimitedLog(log, logging.ERROR)

    # -- called from other threads ---------------------------------------------------------------

    def rows_taken(self, barrier: Barrier, row_chunks: list[bytes], blocks: int) -> None:
        """A worker's changes up to the barrier, and how many blocks its book holds in all."""
        self._queue.put(_Rows(barrier, row_chunks, blocks))

    def confirmed(
        self, barrier: Barrier, outputs: Outputs, replica: ReplicaPosition | None = None
    ) -> None:
        """All digests and rejections up to the barrier are confirmed.

        In each output stream, all that input after the barrier's ``position`` produces lies after
        its position in ``outputs``. ``replica`` is what a replica of a group keeps.
        """
        self._queue.put(_Confirmed(barrier, outputs, replica))

    def stop(self) -> None:
        """Finish what has come in. For when all workers and the publisher have ended."""
        self._queue.put(None)

    # -- the loop --------------------------------------------------------------------------------

    def work(self) -> None:
        while True:
            self.sign_of_life()
            try:
                item = self._queue.get(timeout=0 if self._untidy else TICK_S * 5)
            except queue.Empty:
                self._tidy_up()
                continue
            if item is None:
                return
            pending = self._pending or _Pending(item.barrier)
            self._pending = pending
            if isinstance(item, _Rows):
                pending.row_chunks += item.row_chunks
                pending.blocks += item.blocks
                pending.workers += 1
            else:
                pending.outputs, pending.replica = item.outputs, item.replica
            if pending.workers == self._workers and pending.outputs is not None:
                self._complete(pending, pending.outputs)
                self._pending = None

    def _complete(self, pending: _Pending, outputs: Outputs) -> None:
        barrier, last = pending.barrier, self.store.last
        self.completing.observe(time.monotonic() - barrier.age_from)
        unchanged = (
            last is not None
            and last.position == barrier.position
            and last.outputs == outputs
            and last.replica == pending.replica
            and last.settings == self._settings
            # Only --accept-clock-step sets the arrival clock back; save that also when nothing
            # else has changed.
            and last.arrival_ns <= barrier.arrival_ns
        )
        touched_bytes = 0
        if pending.row_chunks or not unchanged:
            checkpoint = Checkpoint(
                number=last.number + 1 if last is not None else 1,
                written_at_ns=time.time_ns(),
                position=barrier.position,
                arrival_ns=barrier.arrival_ns,
                outputs=outputs,
                settings=self._settings,
                blocks=pending.blocks,
                replica=pending.replica,
            )
            try:
                self._write(pending.row_chunks, checkpoint, of_all_rows=barrier.of_all_rows)
            except AllRowsNeeded as error:
                # The next barrier brings them, and with them those that are dropped here.
                self.failures += 1
                log.error("%s", error)
                barrier.done.set()
                return
            touched_bytes = self.store.touched_bytes
        failpoints.reach("checkpointer.done")
        if touched_bytes >= LARGE_BYTES:
            self._memory_kept = True
        elif self._memory_kept:
            self._release_memory()
        self.completed_at = time.monotonic()
        barrier.stored = True
        barrier.done.set()

    def _write(self, row_chunks: list[bytes], checkpoint: Checkpoint, *, of_all_rows: bool) -> None:
        """Until it succeeds: nothing is skipped, and meanwhile no other checkpoint is begun.

        Raises AllRowsNeeded, and StoreInUse where the store is another's by now: that ends us.
        """
        commit = self.store.commit_all if of_all_rows else self.store.commit
        failpoints.reach("checkpointer.before_write")
        while True:
            started = time.monotonic()
            try:
                with self.busy("writing a checkpoint"):
                    commit(row_chunks, checkpoint)
            except (AllRowsNeeded, StoreInUse):
                raise
            except StoreError as error:
                self.failures += 1
                self.failing_because = str(error)
                self._trouble("no checkpoint can be written; trying again", reason=error)
            else:
                break
            retry_at = time.monotonic() + RETRY_PAUSE_S
            while (left := retry_at - time.monotonic()) > 0:
                self.sign_of_life()
                time.sleep(min(left, TICK_S))
        if self.failing_because is not None:
            log.info("checkpoints can be written again")
        self.failing_because = None
        self.write_seconds = time.monotonic() - started
        self.writing.observe(self.write_seconds)
        self.rows_bytes = sum(map(len, row_chunks))
        self.written += 1
        self._untidy = True

    def _tidy_up(self) -> None:
        """What the store has put off, a slice between two checkpoints."""
        if not self._untidy and time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + TIDY_EVERY_S
        try:
            with self.busy("tidying up the store"):
                self._untidy = self.store.tidy_up()
        except StoreError as error:
            self._untidy = False  # a pause, and then again
            self._trouble("the store cannot be tidied up; trying again", reason=error)

    def _release_memory(self) -> None:
        """After large checkpoints, once there is a small one: until then it is used again."""
        self._memory_kept = False
        try:
            self.store.release_memory()
        except StoreError as error:  # the next commit opens it, or says so again
            self._trouble("the store cannot be opened again", reason=error)
        memory.release_memory()
