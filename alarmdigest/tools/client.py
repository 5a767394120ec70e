"""A plain NATS client for the tools: one thread, one connection, no reconnecting."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from alarmdigest._ext import frames, timestamps
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost
from alarmdigest.settings import Settings

LOCAL_SERVER = "nats://127.0.0.1:4222"
BUFFER_BYTES = 256 * 1024
FLUSH_TIMEOUT_S = 10.0


class Client:
    """Subscribes to digests, publishes events and requests. Raises ConnectionLost (NatsError)."""

    def __init__(self, settings: Settings, name: str) -> None:
        """Connects to the first of the servers that answers."""
        self._settings = settings
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0
        self._arrived: deque[dict[str, Any]] = deque()
        failure: ConnectionLost | None = None
        for url in settings.server or (LOCAL_SERVER,):
            self.connection = Connection(url, name=name, login=settings.login)
            try:
                self.connection.connect()
                break
            except ConnectionLost as error:
                failure = error
        else:
            assert failure is not None
            raise failure
        subject = settings.digest_subject.encode()
        self.connection.send(b"SUB " + subject + b"  1\r\n")
        self.flush()

    def flush(self) -> None:
        """Wait until the server has taken everything sent so far."""
        wanted = self.connection.send_ping()
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        while self.connection.pongs < wanted:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectionLost(f"{self.connection.url}: no answer in time")
            self._read(left)

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish ``(subject, body)`` pairs in one write."""
        self.connection.send(
            b"".join(
                b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body)
                for subject, body in messages
            )
        )

    def digests(self, until: float) -> Iterator[dict[str, Any]]:
        """The digests that arrive until the given ``time.monotonic()``, as they come."""
        while True:
            while self._arrived:
                yield self._arrived.popleft()
            left = until - time.monotonic()
            if self._read(max(left, 0.0)) == 0 and left <= 0:
                return

    def _read(self, timeout: float) -> int:
        """One read; digests in it are kept for digests(). How many bytes it had."""
        count = self.connection.receive_into(self._buffer, self._filled, timeout)
        try:
            found, position = frames.scan(self._buffer, 0, self._filled + count)
        except frames.ProtocolError as error:
            raise ConnectionLost(f"{self.connection.url}: {error}") from error
        self._filled += count - position
        self._buffer[: self._filled] = self._buffer[position : position + self._filled]
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        for kind, _sid, _subject, _reply, _headers, payload in found:
            if kind in (frames.MSG, frames.HMSG):
                if (digest := _read_digest(payload)) is not None:
                    self._arrived.append(digest)
            elif message := self.connection.handle(kind, payload):
                raise ConnectionLost(f"{self.connection.url}: the server said: {message}")
        return count


def _read_digest(payload: bytes) -> dict[str, Any] | None:
    """None for what is no digest: anybody who may can write anything on the subject."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("UserID"), str) else None


def event_body(user: str, alarm: str, status: str, changed_at_ns: int) -> bytes:
    """An AlarmStatusChanged as JSON."""
    return orjson.dumps(
        {
            "AlarmID": alarm,
            "UserID": user,
            "Status": status,
            "ChangedAt": timestamps.to_text(changed_at_ns),
        }
    )


def request_body(user: str) -> bytes:
    """A SendAlarmDigest as JSON."""
    return orjson.dumps({"UserID": user})


def expected_digest(user: str, alarm: str, status: str, changed_at_ns: int) -> dict[str, Any]:
    """The digest of one alarm."""
    return {
        "UserID": user,
        "ActiveAlarms": [
            {
                "AlarmID": alarm,
                "Status": status,
                "LatestChangedAt": timestamps.to_text(changed_at_ns),
            }
        ],
    }
