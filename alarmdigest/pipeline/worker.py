"""One worker: a queue of routed batches, and the alarm book of its users."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.pipeline.batches import Outgoing, Routed
from alarmdigest.pipeline.checkpointer import Checkpointer
from alarmdigest.pipeline.due_watch import DueWatch
from alarmdigest.pipeline.outcomes import merge_one
from alarmdigest.pipeline.packed_records import describe, digests_in, record_end
from alarmdigest.pipeline.questions import Question
from alarmdigest.pipeline.trace import Trace, TracedPlace
from alarmdigest.runtime import failpoints, memory
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.runtime.queues import SingleReaderQueue, put_with_heartbeat
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread

# From barrier to barrier so much of the book is searched for alarms to forget: all of it within 15
# checkpoints, or 45 where the steps get smaller with the book. These come every second while
# anything arrives, else every ten seconds (barrier_schedule.py): so within a minute, or eight at
# rest. In slices of some milliseconds between two batches, so that a large book holds up nobody.
SWEEP_FRACTION = 15
SWEEP_AT_LEAST = 4096
SWEEP_SLICE = 16 * 1024
# A book that holds so much less than it did is worth asking the C library for the difference.
RELEASE_ABOVE_BYTES = 4 * 1024 * 1024


def steps_of_a_barrier(book: AlarmBook) -> int:
    """How much of a book is swept from one barrier to the next."""
    return max(SWEEP_AT_LEAST, -(-book.steps_around // SWEEP_FRACTION))


class Worker(ServiceThread):
    """Merges what is routed to it and hands the digests to the publisher.

    ``merged_bytes`` counts what it has worked off: the listener compares it with what it has
    handed over, so neither has to take a lock for the backlog. ``waited`` is how long batches took
    from the socket to here, ``merging`` how long they were worked on; each once for a batch.
    """

    def __init__(
        self,
        number: int,
        book: AlarmBook,
        publisher_queue: queue.Queue[Outgoing | Barrier | None],
        checkpointer: Checkpointer,
        trace: Trace,
        due_watch: DueWatch,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__(f"worker-{number}", on_failure)
        self.number = number
        self._trace = trace
        self._due_watch = due_watch
        self.book = book
        # Not bounded by itself: the listener must never wait for a worker, so it is the one
        # that bounds, in bytes over all workers (see listener.py). None ends the worker.
        self.queue: SingleReaderQueue[Routed | Barrier | Question | None] = SingleReaderQueue()
        self.merged_bytes = 0
        self.waited = Histogram()
        self.merging = Histogram()
        self._publisher_queue = publisher_queue
        self._checkpointer = checkpointer
        self._sweep_steps = 0
        self._sweep_now_ns = 0
        self._most_held_bytes = 0
        self._questions: deque[Question] = deque()

    def work(self) -> None:
        while True:
            self.sign_of_life()
            try:
                busy = self._sweep_steps or self._questions
                item = self.queue.get(timeout=0 if busy else TICK_S * 5)
            except queue.Empty:
                self._sweep()
                self._answer()
                continue
            if item is None:
                break
            if isinstance(item, Barrier):
                if item.of_checkpoint:
                    self._hand_over_rows(item)
                put_with_heartbeat(self._publisher_queue, item, self.sign_of_life)
            elif isinstance(item, Question):
                self._questions.append(item)
            else:
                self._merge(item)
                self.merged_bytes += len(item)
                self._sweep()
                self._answer()
        put_with_heartbeat(self._publisher_queue, None, self.sign_of_life)

    def _merge(self, batch: Routed) -> None:
        self.waited.observe(time.monotonic() - batch.age_from)
        if self.book.watched != self._due_watch.on:
            self.book.watch(self._due_watch.on)
        merging_s, offset = 0.0, 0
        for place in batch.traced:
            if not self._trace.has_room():
                continue  # it is merged with those that follow
            merging_s += self._merge_until(batch, offset, place.offset)
            offset = self._merge_traced(batch, place)
        merging_s += self._merge_until(batch, offset, len(batch))
        self.merging.observe(merging_s)
        if self.book.watched and (news := self.book.take_news()):
            self._due_watch.offer(news)

    def _merge_until(self, batch: Routed, offset: int, end: int) -> float:
        """From one offset to the other; for how long the book was at it."""
        merging_s = 0.0
        while offset < end:
            before, started = self.book.answered, time.monotonic()
            made, offset = self.book.merge(batch.records, offset, end)
            merging_s += time.monotonic() - started
            if made:
                self._publish(Outgoing(made, batch.age_from, self.book.answered - before))
        return merging_s

    def _merge_traced(self, batch: Routed, place: TracedPlace) -> int:
        """One message of the user who is traced; the offset after it."""
        end = record_end(batch.records, place.offset)
        before = self.book.answered
        made, outcome = merge_one(self.book, batch.records, place.offset, end)
        told = describe(batch.records, place.offset)
        self._trace.line(
            outcome, sequence=place.sequence, worker=self.number, **told, clamped=place.clamped
        )
        if made:
            digests = list(digests_in(made))

            def confirmed() -> None:
                for message_id, _alarms in digests:
                    self._trace.line("confirmed", sequence=place.sequence, id=message_id)

            for message_id, alarms in digests:
                self._trace.line(
                    "digest made", sequence=place.sequence, id=message_id, alarms=alarms
                )
            answered = self.book.answered - before
            self._publish(Outgoing(made, batch.age_from, answered, on_confirmed=confirmed))
        return end

    def _publish(self, digests: Outgoing) -> None:
        # Digests are never dropped: a publisher that cannot publish makes us wait.
        put_with_heartbeat(self._publisher_queue, digests, self.sign_of_life)

    def _hand_over_rows(self, barrier: Barrier) -> None:
        """Hand over what has changed since the last checkpoint's barrier, as bytes of their own."""
        self._sweep_now_ns = barrier.arrival_ns
        # What is left over from the last one, where batches leave little time for it, is not lost.
        self._sweep_steps += steps_of_a_barrier(self.book)
        self._sweep_steps = min(self._sweep_steps, self.book.steps_around)
        self._sweep()
        if barrier.of_all_rows:
            self.book.mark_all_changed()
        row_chunks = []
        while chunk := self.book.take_rows():
            row_chunks.append(chunk)
        self._checkpointer.rows_taken(barrier, row_chunks, self.book.block_count)
        failpoints.reach("worker.rows_taken")
        self._release_memory()

    def _sweep(self) -> None:
        if self._sweep_steps == 0:
            return
        steps = min(self._sweep_steps, SWEEP_SLICE)
        self.book.sweep(self._sweep_now_ns, steps)
        self._sweep_steps -= steps

    def _answer(self) -> None:
        """A slice of an answer, so that nobody waits long."""
        if self._questions and self._questions[0].answer_slice(self.book):
            self._questions.popleft()

    def _release_memory(self) -> None:
        """Return to the system the memory that the book has freed."""
        held = self.book.held_bytes
        self._most_held_bytes = max(self._most_held_bytes, held)
        if self._most_held_bytes - held >= RELEASE_ABOVE_BYTES:
            self._most_held_bytes = held
            memory.release_memory()
