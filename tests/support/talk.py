"""A plain user of one Connection: reads it as the thread that owns it would."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alarmdigest._ext import frames
from alarmdigest.nats.connection import Connection

Frame = tuple[int, int, bytes, bytes, bytes, bytes]


class Talk:
    """An open connection, used as the thread that owns it would; keeps all frames that came."""

    def __init__(self, url: str, *, timeout: float = 5.0, ping_interval: float = 20.0) -> None:
        self.connection = Connection(url, name="test", timeout=timeout, ping_interval=ping_interval)
        self.connection.connect()
        self.frames: list[Frame] = []
        self.refusals: list[str] = []
        self._buffer = bytearray(1 << 20)
        self._filled = 0

    def read_until(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"only these came: {self.frames}"
            self._filled += self.connection.receive_into(self._buffer, self._filled, 0.05)
            found, end = frames.scan(self._buffer, 0, self._filled)
            self._buffer[: self._filled - end] = self._buffer[end : self._filled]
            self._filled -= end
            for frame in found:
                self.frames.append(frame)
                if refused := self.connection.handle(frame[0], frame[-1]):
                    self.refusals.append(refused)
            self.connection.keep_alive()

    def flush(self) -> None:
        number = self.connection.send_ping()
        self.read_until(lambda: self.connection.pongs >= number)

    def count(self, kind: int) -> int:
        return sum(frame[0] == kind for frame in self.frames)


@contextmanager
def talk(url: str, *, timeout: float = 5.0, ping_interval: float = 20.0) -> Iterator[Talk]:
    opened = Talk(url, timeout=timeout, ping_interval=ping_interval)
    try:
        yield opened
    finally:
        opened.connection.close()
