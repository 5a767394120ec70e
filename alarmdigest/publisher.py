"""The one publishing thread: digests and refusals out, in order, until they are confirmed.

What has been sent is kept until its confirmation (``confirmations/``): after a lost connection or
a refusal everything from the first unconfirmed message on is sent again, in order and with the same
ids. What cannot be published is not dropped: the queue fills, and the workers wait.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from alarmdigest import failpoints
from alarmdigest._ext import frames
from alarmdigest.batches import Outgoing
from alarmdigest.checkpoint import Barrier
from alarmdigest.confirmations.window import Held, Window
from alarmdigest.logs import Fields, LimitedLog
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, NatsError
from alarmdigest.nats.link import Link
from alarmdigest.store.base import Outputs, Position
from alarmdigest.threads import TICK_S, ByteQueue, ServiceThread

log = logging.getLogger(__name__)

# With what the window may hold, what waits for the server stays within some 100 MB however long it
# is away; and one digest of whatever size.
MAX_QUEUED_BYTES = 64 * 1024 * 1024
MAX_WRITE_BYTES = 1024 * 1024
FIRST_RETRY_PAUSE_S = 1.0
LONGEST_RETRY_PAUSE_S = 30.0


class Publisher(ServiceThread):
    """Owns the publishing connection. ``queue`` takes batches of outgoing records, and barriers.

    One None in the queue from each of ``producers`` ends it, once everything is confirmed.
    """

    def __init__(
        self,
        link: Link,
        window: Window,
        *,
        producers: int,
        replay_end: Position | None,
        on_published: Callable[[Barrier, Outputs], None],
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        """``on_published`` is called when all that stood before a barrier, from every producer, is
        confirmed, with the window's outputs at the moment when the first of them brought it.
        An earlier run has read the input stream up to ``replay_end`` at most (None: there is none).
        """
        super().__init__("publisher", on_failure)
        self.queue: ByteQueue[Outgoing | Barrier | None] = ByteQueue(MAX_QUEUED_BYTES)
        self.connected = threading.Event()
        # Why digests cannot be published although a server is there; None when all is well.
        self.held_because: str | None = None

        self.link = link
        self.window = window
        self._all_producers = producers
        self._replay_end = replay_end
        self._producers = producers
        self._barriers_met = 0
        self._outputs: Outputs = {}
        self._on_published = on_published
        self._retry_at = 0.0
        self._retry_pause_s = FIRST_RETRY_PAUSE_S
        self._given_up = threading.Event()
        self._connection: Connection | None = None
        self._buffer = bytearray(64 * 1024)
        self._received = 0
        self._trouble = LimitedLog(log, logging.ERROR)

    def give_up(self) -> None:
        """Stop even though something is unconfirmed: the drain took too long."""
        self._given_up.set()

    # -- the loop --------------------------------------------------------------------------------

    def work(self) -> None:
        while self._has_work():
            if self._given_up.is_set():
                break
            self.beat()
            try:
                connection = self._connection or self._connect()
                if connection is None:
                    break
                self._publish_some(connection)
            except Held as held:
                self._hold(str(held))
            except ConnectionLost as lost:
                self._forget_connection(lost)
        if self._connection is not None:
            self._connection.close()

    def _has_work(self) -> bool:
        return self._producers > 0 or not self.window.empty

    def _publish_some(self, connection: Connection) -> None:
        """One turn: confirmations first, so that a full window cannot wait for itself."""
        window = self.window
        must_wait = (
            self._producers == 0
            or window.full
            or (window.unsent and time.monotonic() < self._retry_at)
        )
        more = self._read(connection, TICK_S if must_wait else 0.0)
        if window.unsent:
            if time.monotonic() >= self._retry_at:
                self._send(connection)
        # Where some confirmations were, more may wait, and they must not wait for the next digest.
        elif not must_wait and self._gather(0.0 if more else TICK_S):
            self._send(connection)
        connection.keep_alive()
        if connection.lame_duck and window.empty and self.link.has_alternative():
            raise ConnectionLost(f"{connection.url} is about to shut down")

    def _gather(self, timeout: float) -> bool:
        """Take what waits in the queue into the window, up to the size of one write; waits so long
        for the first item. Whether there is something to send."""
        batches: list[Outgoing] = []
        size = 0
        try:
            item = self.queue.get(timeout=timeout)
            while True:
                if isinstance(item, Outgoing):
                    batches.append(item)
                    size += len(item)
                else:
                    self._keep(batches)
                    if item is None:
                        self._producers -= 1
                    else:
                        self._meet(item)
                if size >= MAX_WRITE_BYTES:
                    break
                item = self.queue.get_nowait()
        except queue.Empty:
            pass
        self._keep(batches)
        self._release()
        return self.window.unsent

    def _keep(self, batches: list[Outgoing]) -> None:
        if any(batch.records for batch in batches):
            self.window.keep(batches)
        batches.clear()

    def _meet(self, barrier: Barrier) -> None:
        """A barrier comes once from every producer; only one is on its way at a time."""
        if self._barriers_met == 0:
            self._outputs = self.window.outputs()
            failpoints.reach("publisher.first_barrier")
        self._barriers_met += 1
        if self._barriers_met == self._all_producers:
            self._barriers_met = 0
            outputs = self._outputs
            if self._behind_replay(barrier.position):
                self.window.replay_finished()
            self.window.mark(lambda: self._on_published(barrier, outputs))

    def _behind_replay(self, position: Position | None) -> bool:
        end = self._replay_end
        if position is None or end is None:
            return position is not None
        # A stream that was made anew meanwhile will never bring what an earlier run has read.
        return position.created != end.created or position.sequence >= end.sequence

    # -- sending ---------------------------------------------------------------------------------

    def _send(self, connection: Connection) -> None:
        failpoints.reach("publisher.before_send")
        with self.busy("sending"):
            self.window.send(connection)
        failpoints.reach("publisher.after_send")

    def _hold(self, reason: str) -> None:
        """Digests cannot be published: keep them all, say so, try again after a pause."""
        self.held_because = reason
        if time.monotonic() >= self._retry_at:  # not once for each digest of one attempt
            self._retry_at = time.monotonic() + self._retry_pause_s
            self._retry_pause_s = min(self._retry_pause_s * 2, LONGEST_RETRY_PAUSE_S)
        self._trouble("digests cannot be published and are kept", reason=reason)
        if self.window.reconnects_when_held:
            self.link.last_error = reason
            self.window.forget_sent()
            self._drop_connection()

    # -- confirmations ---------------------------------------------------------------------------

    def _read(self, connection: Connection, timeout: float) -> bool:
        """Take what is there, waiting so long for it. Whether there was anything."""
        count = connection.receive_into(self._buffer, self._received, timeout)
        if count:
            try:
                position, control = self.window.scan(self._buffer, self._received + count)
            except frames.ProtocolError as error:
                raise ConnectionLost(str(error)) from error
            rest = self._received + count - position
            self._buffer[:rest] = self._buffer[position : position + rest]
            self._received = rest
            if rest == len(self._buffer):
                raise ConnectionLost(f"{connection.url}: a line of over {rest} bytes")
            for kind, text in control:
                self._answer(connection, kind, text)
                if self._connection is None:  # given up because of what the server said
                    return True
        self._release()
        self.window.check()
        return count > 0

    def _answer(self, connection: Connection, kind: int, text: bytes) -> None:
        refused = connection.handle(kind, text)
        if kind == frames.PONG:
            self.window.ponged(connection.pongs)
        elif kind == frames.INFO:
            self.link.learn(connection)
        elif refused is not None:
            # PONGs that came before it in the same read confirm what they confirm.
            self._release()
            try:
                self.window.server_refused(refused)
            except Held as held:
                # At once: a PONG behind it must not be taken for a confirmation.
                self._hold(str(held))

    def _release(self) -> None:
        if self.window.release():
            if not self.window.unsent:
                self.held_because = None
                self._retry_pause_s = FIRST_RETRY_PAUSE_S
            failpoints.reach("publisher.confirmed")

    # -- connections -----------------------------------------------------------------------------

    def _connect(self) -> Connection | None:
        def go_on() -> bool:
            self.beat()
            # Looks into the queue also without a server: when there is nothing to publish, a
            # drain need not wait for one.
            if self.window.empty:
                self._gather(0)
            return self._has_work() and not self._given_up.is_set()

        connection = self._connection = self.link.open(go_on)
        if connection is None:
            return None
        self._received = 0
        try:
            with self.busy("reading what the output streams hold"):
                self.window.opened(connection)
        except NatsError as error:
            raise ConnectionLost(str(error)) from error
        if self.held_because is None:
            self._retry_at = 0.0
        self.connected.set()
        return connection

    def _forget_connection(self, lost: ConnectionLost) -> None:
        self.link.last_error = str(lost)
        log.warning(
            "connection lost%s",
            Fields(
                name="alarmdigest-publisher",
                unconfirmed_bytes=self.window.unconfirmed_bytes,
                reason=lost,
            ),
        )
        self.window.forget_sent()
        self._drop_connection()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self.connected.clear()
