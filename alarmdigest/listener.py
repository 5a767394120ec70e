"""The nats-client thread: reads the socket, routes what it read, hands one batch to each worker.

It never waits for anybody but the server. A core NATS subscriber that stops reading is cut off,
and everything in between is lost; so batches for a worker that lags are kept, up to a limit in
bytes, and beyond it whole arriving messages are dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from alarmdigest._ext import events, frames
from alarmdigest.logs import LimitedLog
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost
from alarmdigest.nats.link import Link
from alarmdigest.refusals import RefusalDesk
from alarmdigest.threads import TICK_S, ServiceThread, put_patiently
from alarmdigest.worker import Worker

log = logging.getLogger(__name__)

# Megabytes per read: at full speed the cost of a read, of N queue hand-overs and of N wake-ups is
# spread over thousands of messages. At rest a read returns one message, and nothing waits.
BUFFER_BYTES = 2 * 1024 * 1024
DRAIN_WAIT_S = 5.0


class Listener(ServiceThread):
    """Owns the subscribing connection and the router.

    ``consuming`` is set while all subscriptions stand. ``stop()`` drains: unsubscribe, finish what
    has arrived, then tell every worker, through its queue, that nothing more will come.
    """

    def __init__(
        self,
        link: Link,
        router: events.Router,
        desk: RefusalDesk,
        workers: Sequence[Worker],
        publisher_queue: queue.Queue[bytes | None],
        *,
        event_subject: str,
        request_subject: str,
        backlog_limit: int,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__("nats-client", on_failure)
        self.router = router
        self.desk = desk
        self.consuming = threading.Event()
        self.dropping = False
        self.connections_lost = 0

        self._link = link
        self._workers = workers
        self._publisher_queue = publisher_queue
        self._subscriptions = list(
            zip(
                events.EVENT_SIDS + events.REQUEST_SIDS,
                (event_subject, f"{event_subject}.>", request_subject, f"{request_subject}.>"),
                strict=True,
            )
        )
        self._backlog_limit = backlog_limit
        self._handed_bytes = 0
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0
        self._stopping = threading.Event()
        self._trouble = LimitedLog(log, logging.ERROR)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that were routed and not yet merged."""
        return self._handed_bytes - sum(worker.merged_bytes for worker in self._workers)

    def stop(self) -> None:
        self._stopping.set()

    # -- the loop --------------------------------------------------------------------------------

    def work(self) -> None:
        while not self._stopping.is_set():
            connection = self._link.open(self._go_on)
            if connection is None:
                break
            try:
                self._consume(connection)
            except ConnectionLost as lost:
                self._lost(lost)
            finally:
                self.consuming.clear()
                connection.close()
                self._hand_over()  # what was routed before the bytes that ended it
                self.router.take_other()  # a PONG of this connection is none of the next one
        for worker in self._workers:
            worker.queue.put(None)
        self._finish_publishing()

    def _consume(self, connection: Connection) -> None:
        """Subscribe, then read and route until the connection is lost or has been drained."""
        self._filled = 0
        connection.send(
            b"".join(b"SUB %b  %d\r\n" % (name.encode(), sid) for sid, name in self._subscriptions)
        )
        subscribed = connection.send_ping()
        drained: int | None = None
        drain_deadline = 0.0
        while True:
            self.beat()
            self._read(connection)
            self._hand_over()
            for kind, text in self.router.take_other():
                self._answer(connection, kind, text)
            if not self.consuming.is_set() and connection.pongs >= subscribed:
                self.consuming.set()
            connection.keep_alive()
            if drained is None and self._stopping.is_set():
                connection.send(b"".join(b"UNSUB %d\r\n" % sid for sid, _ in self._subscriptions))
                # Everything that the server sent before it saw this comes before its PONG.
                drained = connection.send_ping()
                drain_deadline = time.monotonic() + DRAIN_WAIT_S
            if drained is not None and connection.pongs >= drained:
                return
            if drained is not None and time.monotonic() > drain_deadline:
                raise ConnectionLost(f"{connection.url}: no answer while draining")

    def _read(self, connection: Connection) -> None:
        """One read, and everything whole in it routed. A frame's beginning stays in the buffer."""
        count = connection.receive_into(self._buffer, self._filled, TICK_S)
        self.dropping = self.backlog_bytes > self._backlog_limit
        if count == 0:
            return
        end = self._filled + count
        if self.dropping:
            self._trouble("workers lag behind: dropping messages", backlog=self.backlog_bytes)
        now_ns = time.time_ns()
        position = 0
        try:
            # In steps, so that no thread waits long for the GIL.
            while True:
                start = position
                position = self.router.scan(self._buffer, start, end, now_ns, drop=self.dropping)
                if position == start:
                    break
        except frames.ProtocolError as error:
            raise ConnectionLost(f"{connection.url}: {error}") from error
        self._filled = end - position
        self._buffer[: self._filled] = self._buffer[position:end]
        if self.router.wanted > len(self._buffer):
            self._buffer.extend(bytes(self.router.wanted - len(self._buffer)))
        elif self._filled == 0 and len(self._buffer) > BUFFER_BYTES:
            self._buffer = bytearray(BUFFER_BYTES)

    def _hand_over(self) -> None:
        for number, worker in enumerate(self._workers):
            batch = self.router.take(number)
            if batch:
                self._handed_bytes += len(batch)
                worker.queue.put(batch)
        refusals = self.desk.take()
        if refusals:
            try:
                self._publisher_queue.put_nowait(refusals)
            except queue.Full:
                self.desk.put_back(refusals)

    def _answer(self, connection: Connection, kind: int, text: bytes) -> None:
        refused = connection.handle(kind, text)
        if kind == frames.INFO:
            self._link.learn(connection)
            if connection.lame_duck and self._link.has_alternative():
                raise ConnectionLost(f"{connection.url} is about to shut down")
        if refused is not None:
            # Without one of the subscriptions we would look well and hear nothing.
            raise ConnectionLost(f"{connection.url}: the server said: {refused}")

    # -- endings ---------------------------------------------------------------------------------

    def _go_on(self) -> bool:
        self.beat()
        return not self._stopping.is_set()

    def _lost(self, lost: ConnectionLost) -> None:
        self.connections_lost += 1
        self._link.last_error = str(lost)
        log.error(
            "connection lost name=nats-client reason=%s; "
            "what is published until it is back does not reach us (core mode)",
            lost,
        )

    def _finish_publishing(self) -> None:
        """The last refusals, and the sign that no more will come."""
        put_patiently(self._publisher_queue, self.desk.take(), self.beat)
        put_patiently(self._publisher_queue, None, self.beat)
