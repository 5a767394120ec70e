"""The one publishing thread: sends digests and rejected messages and waits for confirmations.

Digests are kept until they are confirmed, those of one user in order, and sent again with the same
ids (``inflight/``); while they cannot be published, the workers wait. A rejected message that its
stream or the server refuses for good, or whose stream is full, is given up and counted
(``rejections_given_up``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from alarmdigest._ext import frames
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, NatsError, NoAnswer
from alarmdigest.nats.receive_buffer import ReceiveBuffer
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.pipeline.batches import Outgoing
from alarmdigest.pipeline.inflight.arriving import ArrivingBarriers
from alarmdigest.pipeline.inflight.blocked import PublishBlocked
from alarmdigest.pipeline.inflight.confirmer import Confirmer
from alarmdigest.pipeline.inflight.missing_acks import AckTimeout, MissingAcks
from alarmdigest.pipeline.inflight.pace import Pace
from alarmdigest.pipeline.inflight.stream_lookup import StreamLookup
from alarmdigest.pipeline.inflight.window import Window
from alarmdigest.runtime import failpoints
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.runtime.queues import ByteQueue
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.state.position import Outputs, ReplicaPosition, StreamPosition

log = logging.getLogger(__name__)

# With the window some 40 MB wait for a server that is away, and one digest of whatever size; little
# enough for the processor's cache to have it still when it is sent.
MAX_QUEUED_BYTES = 8 * 1024 * 1024
# What is taken from the queue at once: what a worker hands over, so that it need not be copied.
MAX_TAKEN_BYTES = 256 * 1024
LOOK_UP_PAUSE_S = 0.5


class Publisher(ServiceThread):
    """Owns the publishing connection. ``queue`` takes batches of outgoing records, and barriers.
    One None in the queue from each of ``producers`` ends it, once everything is confirmed.
    """

    def __init__(
        self,
        reconnector: Reconnector,
        confirmer: Confirmer,
        *,
        producers: int,
        replay_end: StreamPosition | None,
        on_barrier_confirmed: Callable[[Barrier, Outputs, ReplicaPosition | None], None],
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        """``on_barrier_confirmed`` is called when all that stood before the barrier of a
        checkpoint, from every producer, is confirmed, with the output positions at the moment when
        the first of them brought it, and with what a replica of a group keeps. An earlier run has
        read the input stream up to ``replay_end`` at most (None in core mode).
        """
        super().__init__("publisher", on_failure)
        self.queue: ByteQueue[Outgoing | Barrier | None] = ByteQueue(MAX_QUEUED_BYTES)
        # Set while what is published reaches the server, and it is known how far its streams are.
        self.ready = threading.Event()
        self.window = Window()
        self.pace = Pace()
        # How long framing and writing took, in seconds, once for each write.
        self.sending = Histogram()

        self.reconnector = reconnector
        self.confirmer = confirmer
        self._lookup = confirmer.lookup
        self._replay_end = replay_end
        self._producers = producers
        self._arriving = ArrivingBarriers(producers, self._output_positions)
        self._on_barrier_confirmed = on_barrier_confirmed
        self._stopped_unconfirmed = threading.Event()
        self._leaving = threading.Event()
        self._connection: Connection | None = None
        self._buffer = ReceiveBuffer()
        self._must_look_up = True
        self._look_up_at = 0.0
        self._confirmations = 0
        self._missing_acks = MissingAcks(confirmer, self._go_on)
        self._trouble = LimitedLog(log, logging.ERROR)
        self._no_answers = LimitedLog(log, logging.INFO)

    @property
    def blocked_reason(self) -> str | None:
        """Why digests cannot be published although a server is there; None when all is well."""
        return self.pace.blocked_reason

    def stop_unconfirmed(self) -> None:
        """Stop even though something is unconfirmed: the drain took too long."""
        self._stopped_unconfirmed.set()

    def leave_to_others(self) -> None:
        """Another replica sees to what is unconfirmed once nothing more comes."""
        self._leaving.set()

    # -- the loop --------------------------------------------------------------------------------

    def work(self) -> None:
        while self._has_work() and self._go_on():
            try:
                connection = self._connection or self._connect()
                if connection is None:
                    break
                self._run_once(connection)
            except ConnectionLost as lost:
                self._forget_connection(lost)
        if self._connection is not None:
            self._connection.close()

    def _has_work(self) -> bool:
        return self._producers > 0 or not (self.window.empty or self._leaving.is_set())

    def _go_on(self) -> bool:
        self.sign_of_life()
        return not self._stopped_unconfirmed.is_set()

    def _run_once(self, connection: Connection) -> None:
        """Answers first, so that a full window cannot wait for itself; then what they allow."""
        self._read(connection)
        lookup = self._lookup
        if lookup is not None:
            self._ask_whether_to_look_up(lookup)
            self._release()  # in a group the leader's word confirms, and no answer to us
        must = self._must_look_up or (lookup is not None and lookup.some_left)
        if must and time.monotonic() >= self._look_up_at:
            self._look_up()
        if self.pace.seconds_to_retry == 0.0:
            self._retry()
        if self._takes_more:
            self._take()
        if self._sends_more:
            self._send(connection)
        self._look_for_missing_acks()
        connection.keep_alive()
        if connection.lame_duck and self.window.empty and self.reconnector.has_alternative():
            raise ConnectionLost(f"{connection.url} is about to shut down")

    def _ask_whether_to_look_up(self, lookup: StreamLookup) -> None:
        reason = lookup.others_reason_to_look_up()
        if reason and not self._must_look_up:
            log.info("looking at the output streams%s", Fields(reason=reason))
            self._must_look_up = True
            self._look_up_at = 0.0

    @property
    def _takes_more(self) -> bool:
        """Who leaves takes what is left out of the workers' way, and lets others publish it."""
        needs_more = self._lookup is not None and self._lookup.needs_more
        room = not (self.window.full or self.confirmer.full)
        takes = room or needs_more or self._leaving.is_set()
        return self._producers > 0 and not self._must_look_up and takes

    @property
    def _sends_more(self) -> bool:
        room = self.confirmer.under_way < self.pace.most
        may = self.pace.may_send and not self._must_look_up
        return may and room and self.confirmer.sendable

    # -- from the queue into the window ------------------------------------------------------------

    def _take(self) -> None:
        """Move what waits in the queue into the window, up to the size of one write."""
        batches: list[Outgoing] = []
        for item in self.queue.take(MAX_TAKEN_BYTES):
            if isinstance(item, Outgoing):
                batches.append(item)
                continue
            self._add(batches)
            if item is None:
                self._producers -= 1
            else:
                self._on_barrier(item)
        self._add(batches)
        self._release()

    def _add(self, batches: list[Outgoing]) -> None:
        if batches:
            with self.busy("adding what the output streams may hold already"):
                added = self.confirmer.add(batches, self._go_on)
            if added is not None:  # else we were told to stop: the next start makes them again
                added.on_confirmed = [one.on_confirmed for one in batches if one.on_confirmed]
                self.window.add(added)
        batches.clear()

    def _on_barrier(self, barrier: Barrier) -> None:
        """Of one producer. Output positions are those when the first one comes: what a worker past
        it has made may be stored before others reach it."""
        for gathered in self._arriving.on_barrier(barrier):
            made = self._lookup.on_barrier_gathered(gathered.barrier) if self._lookup else None
            self.window.add_barrier(gathered.barrier, gathered.outputs, made)

    def _output_positions(self) -> Outputs:
        failpoints.reach("publisher.first_barrier")
        return self._lookup.output_positions() if self._lookup else {}

    def _release(self) -> None:
        """Let go what is confirmed, and tell of the barriers that are complete with it."""
        lookup = self._lookup
        below = self.confirmer.confirmed_below
        done = self.window.release(below, lookup.covers) if lookup else self.window.release(below)
        for complete in done:
            barrier, outputs, replica = complete.barrier, complete.outputs, None
            if lookup and barrier.position is not None:
                ended = self._replay_end is None or barrier.position.reaches(self._replay_end)
                lookup.note_stored_through(barrier.position, replay_ended=ended)
                outputs, replica = lookup.checkpoint_of(complete.made, outputs)
            if barrier.of_checkpoint:
                self._on_barrier_confirmed(barrier, outputs, replica)

    # -- sending ---------------------------------------------------------------------------------

    def _send(self, connection: Connection) -> None:
        failpoints.reach("publisher.before_send")
        started = time.monotonic()
        if self.confirmer.under_way == 0:
            self._missing_acks.restart_timer()
        with self.busy("sending"):
            blocked = self.confirmer.send(connection, self.pace.most)
        self.sending.observe(time.monotonic() - started)
        self.window.note_sent(self.confirmer.sent_below)
        failpoints.reach("publisher.after_send")
        if blocked is not None:
            self._block(blocked)
        self._on_new_confirmations()

    def _block(self, blocked: PublishBlocked) -> None:
        """Keep all digests, say so, try again after a pause."""
        self.pace.on_blocked(blocked)
        self._trouble(blocked.what_is_kept, reason=blocked.reason)

    def _retry(self) -> None:
        """See that the streams are there, then send again what failed."""
        try:
            lookup = self._lookup
            if lookup and not lookup.ensure_streams(self._missing_acks.go_on_briefly()):
                why = f"no connection to look at the streams: {self.reconnector.last_error}"
                self.pace.on_retry()
                self._block(PublishBlocked(why))
                return
        except NatsError as error:
            self.pace.on_retry()
            self._block(PublishBlocked.by(error))
            return
        self.pace.on_retry()
        self.confirmer.retry()

    # -- answers ---------------------------------------------------------------------------------

    def _read(self, connection: Connection) -> None:
        """Take in what the server has sent, waiting for it, or for something in the queue, as long
        as there is nothing else to do."""
        timeout = 0.0 if self._sends_more else self._seconds_to_wait()
        if self._takes_more:
            with self.queue.sleeping() as empty:
                received = self._buffer.receive(connection, timeout if empty else 0.0)
        else:
            self.queue.forget_wake()
            received = self._buffer.receive(connection, timeout)
        if self.reconnector.has_alternative():
            # Also while nothing is under way: not only when the next digest finds out.
            connection.still_there()
        if received:
            self._understand(connection)

    def _seconds_to_wait(self) -> float:
        wait_s = TICK_S
        if self._must_look_up:
            wait_s = min(wait_s, max(0.0, self._look_up_at - time.monotonic()))
        retry_s = self.pace.seconds_to_retry
        return wait_s if retry_s is None else min(wait_s, retry_s)

    def _understand(self, connection: Connection) -> None:
        try:
            answers = self.confirmer.read(self._buffer.data, self._buffer.filled)
        except frames.ProtocolError as error:
            raise ConnectionLost(str(error)) from error
        self._buffer.drop_before(connection, answers.offset)
        self._on_new_confirmations()
        for blocked in answers.blocked:
            self._missing_acks.restart_timer()
            self._block(blocked)
        for kind, text in answers.control:
            self._handle(connection, kind, text)

    def _handle(self, connection: Connection, kind: int, text: bytes) -> None:
        error = connection.handle(kind, text)
        if kind == frames.PONG:
            self.confirmer.on_pong(connection.pongs)
            self._on_new_confirmations()
        elif kind == frames.INFO:
            self.reconnector.learn(connection)
        # At once: a PONG after it must not be taken for a confirmation.
        elif error is not None and (blocked := self.confirmer.on_server_error(error)):
            self._block(blocked)

    def _on_new_confirmations(self) -> None:
        confirmations = self.confirmer.confirmations
        if confirmations == self._confirmations:
            return
        self._confirmations = confirmations
        self._missing_acks.restart_timer(confirmed=True)
        self.pace.on_confirmed(all_is_well=self.confirmer.failed == 0)
        self._release()
        failpoints.reach("publisher.confirmed")

    # -- answers that do not come ------------------------------------------------------------------

    def _look_for_missing_acks(self) -> None:
        """Have the streams looked at when it seems that what was sent is lost."""
        if self._must_look_up:
            return
        try:
            reason = self._missing_acks.lookup_reason()
        except AckTimeout as timeout:
            self._block(PublishBlocked(str(timeout), passing=True))
            reason = str(timeout)
        except (ConnectionLost, NoAnswer) as error:  # there is no leader at the moment
            self.reconnector.last_error = str(error)
            return
        except NatsError as error:
            self._block(PublishBlocked.by(error))
            return
        if reason:
            self._no_answers(reason)
            self._must_look_up = True
            self._look_up_at = 0.0

    def _look_up(self) -> None:
        """After a lost connection, or when answers do not come, nothing is sent until both streams
        were looked at. If only that of rejected messages could not be, digests go on, and it alone
        is tried again every 2 s (``only_left``)."""
        lookup, rest = self._lookup, not self._must_look_up
        try:
            with self.busy("reading what the output streams hold"):
                if lookup and not lookup.look_up(self.window, self._go_on, only_left=rest):
                    return
        except NatsError as error:
            self.reconnector.last_error = str(error)
            self._look_up_at = time.monotonic() + LOOK_UP_PAUSE_S
            self._block(PublishBlocked.by(error))
            return
        # That of rejected messages, if it was left out: a look holds up digests while it lasts.
        self._look_up_at = time.monotonic() + 4 * LOOK_UP_PAUSE_S
        self._must_look_up = False
        if not rest:
            self._missing_acks.restart_timer()
        self._on_new_confirmations()
        self.pace.on_streams_found()
        if self.confirmer.failed == 0:
            self.pace.on_retry()
            if not self.confirmer.sendable:
                self.pace.reset()
        self.ready.set()

    # -- connections -----------------------------------------------------------------------------

    def _connect(self) -> Connection | None:
        def go_on() -> bool:
            self.sign_of_life()
            # Looks into the queue also without a server: when there is nothing to publish, a
            # drain need not wait for one.
            may_take = self.window.empty or self._leaving.is_set()
            if may_take and not (self._lookup and self._lookup.add_may_ask):
                self._take()
            return self._has_work() and self._go_on()

        if (connection := self.reconnector.connect_with_backoff(go_on)) is None:
            return None
        self._connection = connection
        connection.watch(self.queue.waker.fileno())
        self._buffer.filled = 0
        self._must_look_up = True
        self._look_up_at = 0.0
        self.confirmer.on_connected(connection)
        return connection

    def _forget_connection(self, lost: ConnectionLost) -> None:
        self.reconnector.last_error = str(lost)
        told = {"name": "alarmdigest-publisher", "unconfirmed_bytes": self.window.bytes}
        log.warning("connection lost%s", Fields(**told, reason=lost))
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self.ready.clear()
