"""The one publishing thread: digests and refusals out, in order, until the server confirmed them.

Every write ends with a PING. Its PONG shows that the server has taken all that came before, and
until then the batch is kept: after a lost connection or a refusal everything from the first
unconfirmed message on is sent again, in order and with the same ids. What cannot be published is
not dropped: the queue fills, and the workers wait.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from alarmdigest._ext import frames, outgoing
from alarmdigest.logs import LimitedLog
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost
from alarmdigest.nats.link import Link
from alarmdigest.threads import TICK_S, ServiceThread

log = logging.getLogger(__name__)

# A batch holds about 256 KiB of digests (alarmbook.pyx), or one that is larger: with these, what
# waits for the server stays within some 100 MB however long it is away.
MAX_QUEUED_BATCHES = 256
MAX_UNCONFIRMED_BYTES = 32 * 1024 * 1024
MAX_WRITE_BYTES = 1024 * 1024
FIRST_RETRY_PAUSE_S = 1.0
LONGEST_RETRY_PAUSE_S = 30.0


@dataclass(slots=True)
class Sent:
    """A batch that the server has not confirmed. ``ping`` is None while it must be sent (again)."""

    batch: bytes
    id_prefix: bytes
    ping: int | None = None
    digests: int = 0
    refusals: int = 0
    given_up: int = 0  # refusals that the server did not take, or that were not sent to it


class Publisher(ServiceThread):
    """Owns the publishing connection. ``queue`` takes batches of outgoing records.

    One None in the queue from each of ``producers`` ends it, once everything is confirmed.
    """

    def __init__(
        self,
        link: Link,
        *,
        producers: int,
        digest_subject: str,
        rejected_subject: str,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__("publisher", on_failure)
        self.queue: queue.Queue[bytes | None] = queue.Queue(MAX_QUEUED_BATCHES)
        self.connected = threading.Event()
        self.max_payload = 0
        self.digests = 0
        self.refusals = 0
        self.refusals_given_up = 0
        self.resent = 0
        # Why digests cannot be published although a server is there; None when all is well.
        self.held_because: str | None = None

        self.link = link
        self._producers = producers
        self._digest_subject = digest_subject.encode()
        self._rejected_subject = rejected_subject.encode()
        # Ids are unique to the process and the message: 96 random bits, batch, place in the batch.
        self._process_id = secrets.token_hex(12)
        self._batches = 0
        self._unconfirmed: deque[Sent] = deque()
        self._unconfirmed_bytes = 0
        self._retry_at = 0.0
        self._retry_pause_s = FIRST_RETRY_PAUSE_S
        self._given_up = threading.Event()
        self._connection: Connection | None = None
        self._buffer = bytearray(64 * 1024)
        self._received = 0
        self._trouble = LimitedLog(log, logging.ERROR)

    @property
    def unconfirmed_bytes(self) -> int:
        return self._unconfirmed_bytes

    @property
    def reconnects(self) -> int:
        return max(0, self.link.connections - 1)

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
            except ConnectionLost as lost:
                self._forget_connection(lost)
        if self._connection is not None:
            self._connection.close()

    def _has_work(self) -> bool:
        return self._producers > 0 or bool(self._unconfirmed)

    def _publish_some(self, connection: Connection) -> None:
        """One turn: confirmations first, so that a full window cannot wait for itself."""
        to_send_again = bool(self._unconfirmed) and self._unconfirmed[-1].ping is None
        must_wait = (
            self._producers == 0
            or self._unconfirmed_bytes > MAX_UNCONFIRMED_BYTES
            or (to_send_again and time.monotonic() < self._retry_at)
        )
        self._read(connection, TICK_S if must_wait else 0.0)
        if to_send_again:
            if time.monotonic() >= self._retry_at:
                self._send_again(connection)
        elif not must_wait and (batch := self._gather(TICK_S)):
            self._write(connection, self._keep(batch))
        connection.keep_alive()
        if connection.lame_duck and not self._unconfirmed and self.link.has_alternative():
            raise ConnectionLost(f"{connection.url} is about to shut down")

    def _gather(self, timeout: float) -> bytes:
        """What waits in the queue, up to the size of one write; waits so long for the first."""
        batches: list[bytes] = []
        size = 0
        try:
            item = self.queue.get(timeout=timeout)
            while True:
                if item is None:
                    self._producers -= 1
                else:
                    batches.append(item)
                    size += len(item)
                if size >= MAX_WRITE_BYTES:
                    break
                item = self.queue.get_nowait()
        except queue.Empty:
            pass
        return b"".join(batches)

    # -- sending ---------------------------------------------------------------------------------

    def _keep(self, batch: bytes) -> Sent:
        self._batches += 1
        sent = Sent(batch, f"{self._process_id}-{self._batches}-".encode())
        self._unconfirmed.append(sent)
        self._unconfirmed_bytes += len(batch)
        return sent

    def _send_again(self, connection: Connection) -> None:
        """Send what has no PING on its way, oldest first; stops at what cannot be sent."""
        for sent in self._unconfirmed:
            self.beat()
            if sent.ping is None:
                before = sent.digests + sent.refusals  # 0 if it was never framed
                if not self._write(connection, sent):
                    return
                self.resent += before

    def _write(self, connection: Connection, sent: Sent) -> bool:
        """Frame and write a batch; False when a digest is too large for this server."""
        wire, sent.digests, sent.refusals, sent.given_up, largest = outgoing.to_wire(
            sent.batch,
            self._digest_subject,
            self._rejected_subject,
            sent.id_prefix,
            connection.max_payload,
        )
        if largest > connection.max_payload:
            self._hold(
                f"a digest of {largest} bytes exceeds the server's max_payload of "
                f"{connection.max_payload}: raise it there, or restart with a smaller --split-size"
            )
            return False
        sent.ping = connection.count_ping()
        connection.send(wire + b"PING\r\n")
        return True

    def _hold(self, reason: str) -> None:
        """Digests cannot be published: keep them all, say so, try again after a pause."""
        self.held_because = reason
        if time.monotonic() >= self._retry_at:  # not once for each digest of one attempt
            self._retry_at = time.monotonic() + self._retry_pause_s
            self._retry_pause_s = min(self._retry_pause_s * 2, LONGEST_RETRY_PAUSE_S)
        self._trouble("digests cannot be published and are kept", reason=reason)

    # -- confirmations ---------------------------------------------------------------------------

    def _read(self, connection: Connection, timeout: float) -> None:
        count = connection.receive_into(self._buffer, self._received, timeout)
        if count == 0:
            return
        try:
            found, position = frames.scan(self._buffer, 0, self._received + count)
        except frames.ProtocolError as error:
            raise ConnectionLost(str(error)) from error
        rest = self._received + count - position
        self._buffer[:rest] = self._buffer[position : position + rest]
        self._received = rest
        if rest == len(self._buffer):
            raise ConnectionLost(f"{connection.url}: a line of over {rest} bytes")
        for kind, *_, text in found:
            refused = connection.handle(kind, text)
            if kind == frames.PONG:
                self._confirm(connection.pongs)
            elif kind == frames.INFO:
                self.link.learn(connection)
                self.max_payload = connection.max_payload
            elif refused is not None:
                self._server_refused(refused)

    def _confirm(self, pongs: int) -> None:
        while self._unconfirmed:
            first = self._unconfirmed[0]
            if first.ping is None or first.ping > pongs:
                return
            self._unconfirmed.popleft()
            self._unconfirmed_bytes -= len(first.batch)
            self.digests += first.digests
            self.refusals += first.refusals
            self.refusals_given_up += first.given_up
            self.held_because = None
            self._retry_pause_s = FIRST_RETRY_PAUSE_S

    def _server_refused(self, message: str) -> None:
        if f'"{self._rejected_subject.decode()}"' in message:
            # A refusal that nobody may hear of must not hold up the digests. Answers come in
            # order: it was in the first batch without its PONG.
            if self._unconfirmed:
                self._unconfirmed[0].refusals -= 1
                self._unconfirmed[0].given_up += 1
            self._trouble("the server does not let us publish refusals", reason=message)
        else:
            # Answers come in order: whatever is unconfirmed now was refused or stands behind it.
            for sent in self._unconfirmed:
                sent.ping = None
            self._hold(message)

    # -- connections -----------------------------------------------------------------------------

    def _connect(self) -> Connection | None:
        def go_on() -> bool:
            self.beat()
            # Looks into the queue also without a server: when there is nothing to publish, a
            # drain need not wait for one.
            if not self._unconfirmed and (batch := self._gather(0)):
                self._keep(batch)
            return self._has_work() and not self._given_up.is_set()

        connection = self._connection = self.link.open(go_on)
        if connection is None:
            return None
        self._received = 0
        self.max_payload = connection.max_payload
        self._retry_at = 0.0
        self.connected.set()
        return connection

    def _forget_connection(self, lost: ConnectionLost) -> None:
        log.warning(
            "connection lost name=publisher unconfirmed_bytes=%d reason=%s",
            self._unconfirmed_bytes,
            lost,
        )
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self.connected.clear()
        for sent in self._unconfirmed:
            sent.ping = None
