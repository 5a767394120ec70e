"""The listener thread: reads the socket, routes what it read, hands one batch to each worker.

Fed by plain subscriptions it never waits for anybody but the server. A core NATS subscriber that
stops reading is cut off, and everything in between is lost; so batches for a worker that lags are
kept, up to a limit in bytes, and beyond it whole arriving messages are dropped and counted. Fed by
a stream nothing is dropped: it asks for no more while so much waits for the workers, and where the
publisher's queue has no room for rejected messages or a barrier it waits itself.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from alarmdigest._ext import frames
from alarmdigest._ext.router import DeliveryGap, Router
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, ConsumerGone, NatsError
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.pipeline.barrier_schedule import BarrierSchedule, Kind
from alarmdigest.pipeline.batches import Outgoing, Routed
from alarmdigest.pipeline.rejections import Rejections
from alarmdigest.pipeline.sources.source import Source
from alarmdigest.pipeline.trace import Trace, TracedPlace
from alarmdigest.pipeline.worker import Worker
from alarmdigest.runtime import failpoints
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.runtime.queues import put_with_heartbeat
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.wire.buckets import bucket_of

log = logging.getLogger(__name__)

# Megabytes per read: at full speed the cost of a read, of N queue hand-overs and of N wake-ups is
# spread over thousands of messages. At rest a read returns one message, and nothing waits.
BUFFER_BYTES = 2 * 1024 * 1024
# So much may wait for the workers before a stream is asked for no more.
PAUSE_AT_BYTES = 64 * 1024 * 1024
CATCHING_UP_MESSAGES = 10_000
# When JetStream refuses what we ask or does not answer, we ask again after a pause; and after so
# long another server, if there is one.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
OPEN_FOR_S = 15.0


class Listener(ServiceThread):
    """Owns the reading connection and the router.

    ``consuming`` is set while what is published reaches us. ``stop()`` drains: ask for no more,
    finish what has arrived, send a last barrier after it, then tell every worker, through its
    queue, that nothing more will come.
    """

    def __init__(
        self,
        reconnector: Reconnector,
        source: Source,
        router: Router,
        rejections: Rejections,
        workers: Sequence[Worker],
        publisher_queue: queue.Queue[Outgoing | Barrier | None],
        schedule: BarrierSchedule,
        trace: Trace,
        *,
        backlog_limit: int,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__("listener", on_failure)
        self.router = router
        self.source = source
        self.rejections = rejections
        self._trace = trace
        self.consuming = threading.Event()
        self.dropping = False
        self.connections_lost = 0
        self.delivery_gaps = 0
        # How long the messages of one read took to be decoded and routed.
        self.routing = Histogram()
        # The connection broke while the last messages were on their way: they are lost (core mode).
        self.drain_was_cut = False

        self.reconnector = reconnector
        self._workers = workers
        self._publisher_queue = publisher_queue
        self._schedule = schedule
        # What goes to the publisher next. It has at most a barrier in it, what was rejected before
        # that, and one batch that had no room.
        self._next_out: deque[Outgoing | Barrier] = deque()
        self._backlog_limit = backlog_limit
        self._handed_bytes = self._merged_bytes = 0  # as the workers said when they were asked last
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0
        self._read_at = time.monotonic()
        self._stopping = threading.Event()
        self._makes_last_checkpoint = True
        self._end_was_known = False
        self._trouble = LimitedLog(log, logging.ERROR)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that were routed and not yet merged."""
        return self._handed_bytes - sum([worker.merged_bytes for worker in self._workers])

    def _backlog_exceeds(self, limit: int) -> bool:
        """Asks the workers only if it may: at least what they had merged then is merged."""
        if self._handed_bytes - self._merged_bytes > limit:
            self._merged_bytes = self._handed_bytes - self.backlog_bytes
        return self._handed_bytes - self._merged_bytes > limit

    @property
    def catching_up(self) -> bool:
        """Whether the stream holds more that we have not read than passing traffic explains."""
        return self.at_least_behind > CATCHING_UP_MESSAGES

    @property
    def near_end(self) -> bool:
        """Whether the stream has been read so far that passing traffic explains the rest. False
        until it is known for the first time where it ends."""
        return self._end_was_known and not self.catching_up

    @property
    def at_least_behind(self) -> int:
        """Messages that the stream is known to hold after ours, by its leader or a consumer."""
        return max(self.router.pending, self.behind or 0)

    @property
    def behind(self) -> int | None:
        """Messages that wait after the last one that was read; None where nobody knows."""
        return self.source.behind(self.router) if self.consuming.is_set() else None

    def stop(self) -> None:
        self._stopping.set()

    def skip_last_checkpoint(self) -> None:
        """When stopping, neither wait for the checkpoint on its way nor send a last barrier."""
        self._makes_last_checkpoint = False

    # -- the loop --------------------------------------------------------------------------------

    def work(self) -> None:
        while not self._stopping.is_set():
            connection = self.reconnector.connect_with_backoff(self._go_on)
            if connection is None:
                break
            try:
                self._consume(connection)
            except NatsError as lost:
                self._lost(lost)
                self.drain_was_cut = self._stopping.is_set() and self.source.lossy
            finally:
                self.consuming.clear()
                connection.close()
                self._hand_over()  # what was routed before the bytes that ended it
                self.router.take_other()  # a PONG of this connection is none of the next one
        self._last_checkpoint()
        for worker in self._workers:
            worker.queue.put(None)
        self._finish_publishing()

    def _consume(self, connection: Connection) -> None:
        """Ask for messages, then read and route until the connection is lost or was drained."""
        if not self._open_source(connection, None):
            return
        draining = False
        while True:
            self.sign_of_life()
            if not self.consuming.is_set() and self._secure_start(connection):
                self.consuming.set()
            try:
                self._run_once(connection)
                if draining or self._stopping.is_set():
                    if not draining:
                        draining = True
                        self.source.stop(connection)
                    if self.source.stopped(connection):
                        return
                else:
                    # Before the barrier, which may wait for room: that is no silence of the
                    # server's.
                    pause = self._backlog_exceeds(PAUSE_AT_BYTES)
                    self.source.request_more(connection, self.router, pause=pause)
                    self._end_was_known |= self.behind is not None
                    self._send_barrier_when_due()
            except ConsumerGone as gone:
                self.consuming.clear()
                self.reconnector.last_error = str(gone)
                self.source.on_disconnect(gone)
                self._hand_over()
                if draining or not self._open_source(connection, self._unread()):
                    return

    def _run_once(self, connection: Connection) -> None:
        """Read once, route it, hand it over, and react to control frames."""
        self._read(connection)
        self.source.hear(connection, self.router)
        self._hand_over()
        gone: ConsumerGone | None = None
        for kind, text in self.router.take_other():
            try:
                self._handle(connection, kind, text)
            except ConsumerGone as error:  # what stands after it counts all the same
                gone = gone or error
        if gone is not None:
            raise gone
        if connection.lame_duck and self.reconnector.has_alternative():
            raise ConnectionLost(f"{connection.url} is about to shut down")
        connection.keep_alive()
        self.rejections.log_what_was_left_out()

    def _unread(self) -> bytes:
        """The beginning of a frame."""
        return bytes(self._buffer[: self._filled])

    def _open_source(self, connection: Connection, received: bytes | None) -> bool:
        """Ask for messages, again and again while what answers is JetStream's refusal or nothing at
        all; false when told to stop. Raises ConnectionLost, also when another server may do better.
        """
        pause_s, give_up_at = FIRST_PAUSE_S, time.monotonic() + OPEN_FOR_S
        while True:
            try:
                self._filled = 0
                self.source.open(connection, self.router, received)
                return True
            except ConnectionLost:
                raise
            except NatsError as error:
                self.reconnector.last_error = str(error)
                self.source.on_disconnect(error)
                if time.monotonic() > give_up_at and self.reconnector.has_alternative():
                    raise ConnectionLost(f"{connection.url}: {error}") from error
            until = time.monotonic() + pause_s
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            while time.monotonic() < until:
                self._run_once(connection)
                if not self._go_on():
                    return False
            received = self._unread()

    def _secure_start(self, connection: Connection) -> bool:
        """Make sure that a crash from now on loses nothing that is published; whether that is so.

        Where a start after a crash would begin elsewhere (``start_not_replayable``), this sends the
        first barrier, and waits over several calls until its checkpoint is stored; one that the
        store refuses is followed by another.
        """
        if self.source.start_not_replayable:
            newest = self._schedule.newest
            if newest is None or not newest.stored:
                if self._schedule.may_checkpoint:
                    self._send_barrier()
                return False
            self.source.start_not_replayable = False
        return self.source.consuming(connection)

    def _read(self, connection: Connection) -> None:
        """One read, and everything whole in it routed. A frame's beginning stays in the buffer."""
        count = connection.receive_into(self._buffer, self._filled, TICK_S)
        self.dropping = self.source.lossy and self._backlog_exceeds(self._backlog_limit)
        if count == 0:
            self.router.give_back()
            return
        self._read_at = time.monotonic()
        end = self._filled + count
        if self.dropping:
            self._trouble("workers lag behind: dropping messages", backlog=self.backlog_bytes)
        now_ns = self.source.now_ns()
        self._trace.end_when_over()
        self.router.traced = self._trace.user
        offset = 0
        try:
            # In steps, so that no thread waits long for the GIL.
            while offset < end:
                start = offset
                offset = self.router.scan(self._buffer, start, end, now_ns, drop=self.dropping)
                if offset == start:
                    break
        except frames.ProtocolError as error:
            raise ConnectionLost(f"{connection.url}: {error}") from error
        except DeliveryGap as gap:
            self.delivery_gaps += 1
            log.error("deliveries were lost on their way, reading them again: %s", gap)
            raise ConnectionLost(f"{connection.url}: {gap}") from gap
        self.routing.observe(time.monotonic() - self._read_at)
        self._filled = end - offset
        if self._filled:
            self._buffer[: self._filled] = self._buffer[offset:end]
        if self.router.wanted > len(self._buffer):
            self._buffer.extend(bytes(self.router.wanted - len(self._buffer)))
        elif self._filled == 0 and len(self._buffer) > BUFFER_BYTES:
            self._buffer = bytearray(BUFFER_BYTES)

    def _hand_over(self) -> None:
        traced_by, traced = -1, [TracedPlace(*place) for place in self.router.take_places()]
        if traced and self.router.traced is not None:
            traced_by = bucket_of(self.router.traced.decode()) % len(self._workers)
        for number, batch in self.router.take_all():
            self._handed_bytes += len(batch)
            places = traced if number == traced_by else ()
            self._workers[number].queue.put(Routed(batch, self._read_at, places))
        self._offer_next()

    def _offer_next(self) -> None:
        """Give the publisher what goes out next, in order: rejections of messages, and the barrier
        after those that were rejected before it. What it has no room for waits."""
        while True:
            if not self._next_out:
                if not (rejections := self.rejections.take()):
                    return
                self._next_out.append(Outgoing(rejections, self._read_at))
            if not self._offer(self._next_out[0]):
                return
            self._next_out.popleft()

    def _offer(self, item: Outgoing | Barrier) -> bool:
        """Put into the publisher's queue; false when it is full and we must not wait."""
        if not self.source.lossy:
            put_with_heartbeat(self._publisher_queue, item, self.sign_of_life)
            return True
        try:
            self._publisher_queue.put_nowait(item)
        except queue.Full:
            return False
        return True

    def _handle(self, connection: Connection, kind: int, text: bytes) -> None:
        if kind in (frames.MSG, frames.HMSG):
            self.source.status(text, self.router)
            return
        refused = connection.handle(kind, text)
        if kind == frames.INFO:
            self.reconnector.learn(connection)
        if refused is not None and not self.source.can_do_without(refused):
            # Without one of the subscriptions we would look well and hear nothing.
            raise ConnectionLost(f"{connection.url}: the server said: {refused}")

    # -- checkpoints -----------------------------------------------------------------------------

    @property
    def _inputs_read(self) -> int:
        """Events, requests and users to forget so far, rejected ones included."""
        return self.router.events + self.router.requests + self.router.forgets

    def _send_barrier_when_due(self) -> None:
        if (kind := self._schedule.due(self._inputs_read)) is not None:
            self._send_barrier(kind)

    def _send_barrier(self, kind: Kind = "checkpoint") -> None:
        """After everything that was read; all of it must have been handed over."""
        failpoints.reach("listener.before_barrier")
        position = self.source.position(self.router)
        barrier = self._schedule.make(kind, position, self.router.arrival_ns, self._inputs_read)
        for worker in self._workers:
            worker.queue.put(barrier)
        if rejections := self.rejections.take():
            self._next_out.append(Outgoing(rejections, self._read_at))
        self._next_out.append(barrier)
        self._offer_next()
        failpoints.reach("listener.after_barrier")

    def _last_checkpoint(self) -> None:
        """Wait for the checkpoint on its way, then send the last barrier; nobody here waits for
        its checkpoint."""
        while not self._schedule.may_checkpoint and self._makes_last_checkpoint:
            self.sign_of_life()
            self._offer_next()
            if self._schedule.newest is not None:
                self._schedule.newest.done.wait(TICK_S / 10)
        if self._makes_last_checkpoint:
            self._send_barrier()
        while self._next_out:
            self.sign_of_life()
            self._offer_next()
            time.sleep(TICK_S / 10)

    # -- endings ---------------------------------------------------------------------------------

    def _go_on(self) -> bool:
        self.sign_of_life()
        return not self._stopping.is_set()

    def _lost(self, lost: NatsError) -> None:
        self.connections_lost += 1
        self.reconnector.last_error = str(lost)
        self.source.on_disconnect(lost)

    def _finish_publishing(self) -> None:
        """The last rejections, and the sign that no more will come."""
        self.rejections.log_what_was_left_out(at_once=True)
        if rejections := self.rejections.take():
            put_with_heartbeat(
                self._publisher_queue, Outgoing(rejections, self._read_at), self.sign_of_life
            )
        put_with_heartbeat(self._publisher_queue, None, self.sign_of_life)
