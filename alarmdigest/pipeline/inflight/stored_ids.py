"""Reading the ids of messages that an output stream holds, on a connection of its own.

The stream is read in order, only as far as needed, up to the end that its leader reported. The
sequence of the last message read decides whether the end is reached, never a count of pending
messages: a consumer may read a copy of the stream that lags.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable

from alarmdigest._ext import frames
from alarmdigest._ext.stored_ids import StoredIds
from alarmdigest.nats.answers import StartAt, status_of
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, JetStreamError, NatsError, NoAnswer
from alarmdigest.nats.jetstream import TOO_MANY_CONSUMERS, JetStream
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.runtime.logs import Fields

log = logging.getLogger(__name__)

IDS_SID = 5000
# Of messages whose headers alone are sent, only those count; a stream takes up to 64 KiB of them,
# and a pull must hold the largest.
IDS_PER_PULL = 5_000
BYTES_PER_PULL = 8 * 1024 * 1024
PULL_EXPIRES_S = 5.0
# A consumer that gives nothing for so long sits on a server that hangs, or whose copy of the stream
# lags.
SILENCE_S = 0.6
ANSWER_TIMEOUT_S = 1.0
CREATE_TIMEOUT_S = 0.25
CONSUMER_INACTIVE_S = 60.0
# Of messages that a stream's leader gives one by one.
FIRST_AT_ONCE = 4
MOST_AT_ONCE = 64
LITTLE_BYTES = 1024 * 1024
BUFFER_BYTES = 256 * 1024


class StoredIdsReader:
    """Reads after a position up to the stream's end as of the first look.

    ``ids`` holds what was read and not been asked for. ``done`` tells that the end was read.
    """

    def __init__(
        self,
        reconnector: Reconnector,
        stream: str,
        *,
        domain: str,
        after: int,
        end: int,
        believes_marks: bool = True,
    ) -> None:
        """Asks nothing yet. ``after`` and ``end``, as its leader told it, are sequences of it.
        ``believes_marks``: see StoredIds."""
        self.ids = StoredIds(after, secrets.randbits(64), believes_marks)
        self.done = after >= end
        self._reconnector = reconnector
        self._stream = stream
        self._domain = domain
        self._end = end
        self._silent = False
        self._connection: Connection | None = None
        self._inbox = b""
        self._next = b""
        self._delete = b""
        self._buffer = bytearray(BUFFER_BYTES)
        self._leader_api: JetStream | None = None
        self._at_once = FIRST_AT_ONCE
        self._filled = 0
        self._asked = 0  # deliveries that the pulls of this consumer may bring

    def restart(self, end: int) -> None:
        """The stream is another one, which ends there now."""
        self.ids.clear(0)
        self._end = end
        self.done = end == 0
        self.close()

    def truncate(self, sequence: int) -> None:
        """The stream has lost what was after ``sequence``."""
        self.ids.truncate(sequence)
        self._end = min(self._end, sequence)
        self.done = self.ids.sequence >= self._end
        self.close()

    def read(self, go_on: Callable[[], bool]) -> None:
        """Read one pull further, unless done. Raises NatsError; the next call goes on there."""
        try:
            if self._connection is None and not self._open(go_on):
                return
            if not self.done and self._leader_api is not None:
                self._read_leader(self._leader_api)
            elif not self.done:
                self._read_pull(go_on)
        except (ConnectionLost, NoAnswer):
            if self._connection is not None:
                self._reconnector.avoid(self._connection)
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        if self.done:
            self._delete_consumer()
            self.close()

    def read_to_end(self, go_on: Callable[[], bool], on_read: Callable[[int], None]) -> bool:
        """Read all that is left, and be closed; false if ``go_on()`` was false before. Raises
        NatsError. ``on_read`` is told the sequence up to which was read, again and again. Where a
        consumer gives nothing the stream's leader is asked instead."""
        try:
            while not self.done:
                on_read(self.ids.sequence)
                try:
                    self.read(go_on)
                except ConnectionLost:
                    if not self.was_silent:
                        raise
                if not go_on():
                    return False
            return True
        finally:
            on_read(self.ids.sequence)
            self.close()

    def _delete_consumer(self) -> None:
        """The server need not keep it until it is seen to be inactive; an account may have few."""
        connection = self._connection
        if connection is None or not self._delete:
            return
        try:
            connection.send(b"PUB %b 0\r\n\r\n" % self._delete)
            ping, deadline = connection.send_ping(), time.monotonic() + ANSWER_TIMEOUT_S
            # What was closed with something unread would take the deletion back with it.
            while connection.pongs < ping and time.monotonic() < deadline:
                if count := connection.receive_into(self._buffer, self._filled, 0.1):
                    self._take(connection, self._filled + count)
        except NatsError as error:
            log.debug("a consumer is left behind:%s", Fields(reason=error))

    @property
    def was_silent(self) -> bool:
        """Whether the last consumer gave nothing; the next read asks the stream's leader."""
        return self._silent

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._leader_api = None

    def _read_leader(self, js: JetStream) -> None:
        """Some messages of the stream's leader, as a consumer would have brought them."""
        messages = js.leader_messages(self._stream, self.ids.sequence + 1, self._at_once)
        # Whole ones, and they may be large: more at once only while that is little.
        size = sum(len(headers) + len(body) for _seq, headers, body in messages)
        more = min(2 * self._at_once, MOST_AT_ONCE)
        self._at_once = more if size < LITTLE_BYTES else FIRST_AT_ONCE
        # Scanned like deliveries of a consumer; nobody looks at the subject.
        lines = []
        for number, (seq, headers, _body) in enumerate(messages, self.ids.delivered + 1):
            reply = f"$JS.ACK.{self._stream}.leader.1.{seq}.{number}.0.0".encode()
            headers = headers or b"NATS/1.0\r\n\r\n"
            sizes = len(headers), len(headers)
            lines.append(b"HMSG x %d %b %d %d\r\n%b\r\n" % (IDS_SID, reply, *sizes, headers))
        wire = b"".join(lines)
        try:
            self.ids.scan(wire, 0, len(wire))
        except ValueError as error:
            raise ConnectionLost(f"{self._stream}: {error}") from error
        self.done = not messages or self.ids.sequence >= self._end

    def _open(self, go_on: Callable[[], bool]) -> bool:
        """A new connection with a new consumer; false when we shall not go on."""
        connection = self._reconnector.connect_with_backoff(go_on)
        if connection is None:
            return False
        self._connection = connection
        js = JetStream(connection, domain=self._domain, timeout_s=ANSWER_TIMEOUT_S)
        info = js.stream_info(self._stream)
        sequence = self.ids.sequence
        # A stream that was deleted holds nothing.
        self.done = info is None or min(self._end, info.last_seq) <= sequence
        if not self.done and self._silent:
            # Nothing comes: the stream's leader knows whether something is there at all.
            self.done = js.next_message(self._stream, sequence + 1) is None
        # A consumer that was silent sits on a server that hangs or lags, and so may the next one.
        self._leader_api = js if self._silent else None
        self._silent = False
        self._delete = b""
        if self.done:
            return True
        if self._leader_api is not None:
            self.ids.delivered = 0
            return True
        name = f"alarmdigest-ids-{secrets.token_hex(8)}"
        try:
            js.create_consumer(
                self._stream,
                name=name,
                start=StartAt("sequence", sequence + 1),
                headers_only=True,
                inactive_s=CONSUMER_INACTIVE_S,
                timeout_s=max(CREATE_TIMEOUT_S, 3 * connection.round_trip_s),
            )
        except NoAnswer:
            # Consumers are made by the leader of the whole cluster, and there may be none just now.
            self._leader_api = js
        except JetStreamError as error:
            if error.err_code not in TOO_MANY_CONSUMERS:
                raise
            self._leader_api = js
        if self._leader_api is not None:
            self.ids.delivered = 0
            return True
        js.close()
        prefix = f"$JS.{self._domain}.API" if self._domain else "$JS.API"
        self._next = f"{prefix}.CONSUMER.MSG.NEXT.{self._stream}.{name}".encode()
        self._delete = f"{prefix}.CONSUMER.DELETE.{self._stream}.{name}".encode()
        self._inbox = connection.new_inbox().encode()
        connection.send(b"SUB %b  %d\r\n" % (self._inbox, IDS_SID))
        self.ids.delivered = self._asked = self._filled = 0
        return True

    def _read_pull(self, go_on: Callable[[], bool]) -> None:
        connection = self._connection
        assert connection is not None
        wanted = self.ids.delivered + IDS_PER_PULL
        heard_at = time.monotonic()
        while self.ids.delivered < wanted and not self.done and go_on():
            # One pull is always on its way after the one that is read.
            while self._asked < self.ids.delivered + 2 * IDS_PER_PULL:
                self._pull(connection)
            count = connection.receive_into(self._buffer, self._filled, 0.1)
            if count == 0:
                if time.monotonic() - heard_at > SILENCE_S:
                    self._silent = True
                    raise ConnectionLost(f"{connection.url}: {self._stream} gives nothing to read")
                connection.keep_alive()
                continue
            before = self.ids.delivered
            self._take(connection, self._filled + count)
            if self.ids.delivered > before:
                heard_at = time.monotonic()

    def _pull(self, connection: Connection) -> None:
        body = b'{"batch":%d,"max_bytes":%d,"expires":%d}' % (
            IDS_PER_PULL,
            BYTES_PER_PULL,
            round(PULL_EXPIRES_S * 1e9),
        )
        connection.send(b"PUB %b %b %d\r\n%b\r\n" % (self._next, self._inbox, len(body), body))
        self._asked += IDS_PER_PULL

    def _take(self, connection: Connection, end: int) -> None:
        try:
            position, others = self.ids.scan(self._buffer, 0, end)
        except ValueError as error:  # no frame, or a delivery that is missing
            raise ConnectionLost(f"{connection.url}: {error}") from error
        self._filled = end - position
        self._buffer[: self._filled] = self._buffer[position:end]
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        self.done = self.ids.sequence >= self._end
        for kind, subject, text in others:
            if kind not in (frames.MSG, frames.HMSG):
                connection.handle(kind, text)
            elif subject == self._inbox and not self.done:
                self._on_status(connection, text)

    def _on_status(self, connection: Connection, headers: bytes) -> None:
        """A pull has ended, or the consumer has. Raises ConnectionLost for the latter."""
        if status_of(headers) == 100:
            return
        left = re.search(rb"\r\nNats-Pending-Messages: *(\d+)", headers)
        if left is None:
            why = headers.partition(b"\r\n")[0].decode("ascii", "replace")
            raise ConnectionLost(f"{connection.url}: the consumer of {self._stream}: {why}")
        self._asked -= int(left[1])
