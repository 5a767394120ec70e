"""What a connection brings, as far as it is not a whole frame yet."""

from __future__ import annotations

from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost

BUFFER_BYTES = 64 * 1024


class ReceiveBuffer:
    """``data[:filled]`` is what was read and not taken."""

    def __init__(self) -> None:
        self.data = bytearray(BUFFER_BYTES)
        self.filled = 0

    def begin(self, received: bytes) -> None:
        """With what a new connection has brought already."""
        self.data[: len(received)] = received
        self.filled = len(received)

    def receive(self, connection: Connection, timeout_s: float) -> bool:
        """Read once; whether anything came. Raises ConnectionLost."""
        count = connection.receive_into(self.data, self.filled, timeout_s)
        self.filled += count
        return count > 0

    def drop_before(self, connection: Connection, position: int) -> None:
        """All before ``position`` was taken; make room for more. Raises ConnectionLost where a
        frame is larger than any message: anybody may send us anything that the server takes."""
        rest = self.filled - position
        self.data[:rest] = self.data[position : self.filled]
        self.filled = rest
        if rest == len(self.data):
            if rest > connection.max_payload + 2 * BUFFER_BYTES:
                raise ConnectionLost(f"{connection.url}: a frame of over {rest} bytes")
            self.data.extend(bytes(rest))
        elif rest == 0 and len(self.data) > BUFFER_BYTES:
            self.data = bytearray(BUFFER_BYTES)
