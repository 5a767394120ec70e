"""One plain subscription on a connection of one's own, for the tools."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from alarmdigest._ext import frames
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost

BUFFER_BYTES = 256 * 1024
FLUSH_TIMEOUT_S = 10.0
STEP_S = 0.1


class Subscription:
    """Reads a connection and keeps what arrives on a subject. Raises ConnectionLost."""

    def __init__(self, connection: Connection, subject: str) -> None:
        """Waits until the server has subscribed us."""
        self._connection = connection
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0
        self._arrived: deque[tuple[bytes, bytes]] = deque()
        connection.send(b"SUB " + subject.encode() + b"  1\r\n")
        self.flush()

    def flush(self) -> None:
        """Wait until the server has taken everything sent so far."""
        wanted = self._connection.send_ping()
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        while self._connection.pongs < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectionLost(f"{self._connection.url}: no answer in time")
            self._read(min(left, STEP_S))
            self._connection.still_there()

    def messages(self, until: float) -> Iterator[tuple[bytes, bytes]]:
        """Headers and bodies that arrive until the given ``time.monotonic()``, as they come."""
        while True:
            while self._arrived:
                yield self._arrived.popleft()
            left = until - time.monotonic()
            self._read(max(left, 0.0))
            if left <= 0:  # whatever came until then; more may come for ever
                yield from self._arrived
                self._arrived.clear()
                return

    def _read(self, timeout: float) -> int:
        """One read; messages in it are kept for messages(). How many bytes it had."""
        connection = self._connection
        count = connection.receive_into(self._buffer, self._filled, timeout)
        try:
            found, position = frames.scan(self._buffer, 0, self._filled + count)
        except frames.ProtocolError as error:
            raise ConnectionLost(f"{connection.url}: {error}") from error
        self._filled += count - position
        self._buffer[: self._filled] = self._buffer[position : position + self._filled]
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        for kind, _sid, _subject, _reply, headers, payload in found:
            if kind in (frames.MSG, frames.HMSG):
                self._arrived.append((headers, payload))
            elif message := connection.handle(kind, payload):
                raise ConnectionLost(f"{connection.url}: the server said: {message}")
        return count
