"""A publisher beside the service, which measures what a cluster keeps publishers waiting.

It talks to all nodes at once: what is not confirmed at once is published again, under the same id,
through the next node. So what it waits is what the streams were without a leader.
"""

from __future__ import annotations

import json
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

RETRY_S = 0.15
EVERY_S = 0.03

Frames = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Beat:
    """One turn: when it was sent first, and when the stream had confirmed all of it; Unix time."""

    number: int
    sent: float
    confirmed: float


class Pulse(threading.Thread):
    """Publishes what ``messages(number)`` gives, one turn after the other, until the ``with`` block
    ends; ``beats`` are the turns so far."""

    def __init__(self, ports: list[int], messages: Callable[[int], Frames]) -> None:
        super().__init__(name="pulse", daemon=True)
        self.beats: list[Beat] = []
        self._ports = ports
        self._messages = messages
        self._port = 0
        self._sockets: dict[int, socket.socket] = {}
        self._buffers: dict[int, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._stopping = threading.Event()
        self._confirmed: set[bytes] = set()

    def run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            self._turn(number)
            self._stopping.wait(EVERY_S)

    def longest_wait(self) -> float:
        """In seconds, of all turns so far."""
        return max((beat.confirmed - beat.sent for beat in self.beats), default=0.0)

    def steady_since(self) -> float:
        """Since when, in Unix time, no turn has taken longer than one attempt."""
        waits = [beat.confirmed for beat in self.beats if beat.confirmed - beat.sent > RETRY_S]
        return max(waits, default=0.0)

    def available(self, at: float, within: float = 0.2) -> float:
        """The first moment from ``at`` on at which what was published was confirmed; also when it
        was not any more a moment later."""
        for beat in self.beats:
            early = within if beat.confirmed - beat.sent > RETRY_S else 0.0
            if beat.sent - early <= at < beat.confirmed:
                return beat.confirmed
        return at

    def _turn(self, number: int) -> None:
        frames, waiting = [], set()
        for part, (subject, body) in enumerate(self._messages(number)):
            reply = f"{self._inbox}.{number}.{part}".encode()
            headers = b"NATS/1.0\r\nNats-Msg-Id: %b\r\n\r\n" % reply
            sizes = len(headers), len(headers) + len(body)
            head = b"HPUB %b %b %d %d\r\n" % (subject.encode(), reply, *sizes)
            frames.append(head + headers + body + b"\r\n")
            waiting.add(reply)
        sent = time.time()
        for attempt in range(10**9):
            self._publish(attempt, b"".join(frames))
            until = time.monotonic() + RETRY_S
            while not waiting <= self._confirmed and time.monotonic() < until:
                self._read(until - time.monotonic())
            if waiting <= self._confirmed:
                break
            if self._stopping.is_set():
                return
        self._confirmed.clear()
        self.beats.append(Beat(number, sent, time.time()))

    def _publish(self, attempt: int, frames: bytes) -> None:
        """Through the node that confirmed last, then through the others in turn."""
        for port in self._ports:
            if port not in self._sockets:
                self._connect(port)
        ports = [port for port in self._ports if port in self._sockets]
        if ports:
            self._port += attempt > 0
            port = ports[self._port % len(ports)]
            try:
                self._sockets[port].sendall(frames)
            except OSError:
                self._drop(port)

    def _connect(self, port: int) -> None:
        options = {"verbose": False, "headers": True, "protocol": 1, "no_responders": True}
        hello = f"CONNECT {json.dumps(options)}\r\nSUB {self._inbox}.> 1\r\n".encode()
        with suppress(OSError):
            sock = socket.create_connection(("127.0.0.1", port), 0.1)
            sock.settimeout(0.1)
            sock.sendall(hello)
            self._sockets[port], self._buffers[port] = sock, b""
            self._selector.register(sock, selectors.EVENT_READ, port)

    def _drop(self, port: int) -> None:
        sock = self._sockets.pop(port)
        self._selector.unregister(sock)
        sock.close()

    def _read(self, timeout: float) -> None:
        if not self._sockets:
            time.sleep(min(0.01, timeout))
            return
        for key, _events in self._selector.select(timeout):
            port = key.data
            try:
                data = self._sockets[port].recv(65536)
            except OSError:
                data = b""
            if not data:
                self._drop(port)
                continue
            self._buffers[port] = self._take(port, self._buffers[port] + data)

    def _take(self, port: int, data: bytes) -> bytes:
        while (end := data.find(b"\r\n")) >= 0:
            words, after = data[:end].split(), end + 2
            if words[0] in (b"MSG", b"HMSG"):
                size = int(words[-1])
                if len(data) < after + size + 2:
                    break
                if words[0] == b"MSG" and b'"seq"' in data[after : after + size]:
                    self._confirmed.add(words[1])
                after += size + 2
            elif words[0] == b"PING":
                with suppress(OSError):
                    self._sockets[port].sendall(b"PONG\r\n")
            data = data[after:]
        return data

    def __enter__(self) -> Pulse:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self.join(10)
        for port in list(self._sockets):
            self._drop(port)
