"""Requests and their answers over a connection of ours, also one that is in use.

One subscription takes all answers. Whoever else reads the connection stands back meanwhile: see
``Requests``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from alarmdigest._ext import frames
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, JetStreamDenied, NoAnswer

REQUESTS_SID = 100
# An answer may be lost, with the server that was to give it or on its way through the cluster: so
# often we ask again, unless a round trip takes longer.
ASK_AGAIN_S = 0.5
# How long one read may wait before pings, ours and the server's, are seen to.
STEP_S = 0.1


class Requests:
    """Asks one request at a time, for the thread that owns the connection.

    It reads the connection until ``close()``. On a new connection, with no subscription yet, that
    is all. A connection that is in use is taken over with ``received``, the bytes that its reader
    has not dealt with; ``close()`` then gives back what is the reader's to deal with next, in
    order: those bytes, messages of other subscriptions, INFO, and what the server refused that was
    none of ours. It is kept in memory meanwhile; so much must not come that this matters.

    Every method may raise ConnectionLost, NoAnswer and JetStreamDenied. After ConnectionLost
    nothing is given back.
    """

    def __init__(
        self, connection: Connection, *, timeout_s: float, received: bytes | None = None
    ) -> None:
        if connection.asked:
            # The server would keep the first subscription of this number, and we hear nothing.
            raise RuntimeError("another Requests still reads this connection: close it first")
        connection.asked = True
        self._connection = connection
        self._timeout_s = timeout_s
        self._ask_again_s = max(ASK_AGAIN_S, 2 * connection.round_trip_s)
        self._inbox = connection.new_inbox()
        self._requests = 0
        self._shared = received is not None
        self._others: list[bytes] = []
        self._buffer = bytearray(received or b"")
        self._filled = len(self._buffer)
        self._buffer.extend(bytes(1 << 18))
        connection.send(f"SUB {self._inbox}.* {REQUESTS_SID}\r\n".encode())

    def close(self) -> bytes:
        """End it; the bytes that whoever reads the connection next begins with (none on one that
        was not in use).

        Waits for the server to have taken the UNSUB, so that no late answer reaches the next
        reader. Raises ConnectionLost.
        """
        self._end(whole_frames=not self._shared)
        return b"".join(self._others) + bytes(self._buffer[: self._filled])

    def drop(self) -> None:
        """End it, for a reader that begins anew, and has no subscription: what came for others is
        thrown away, and nobody waits for the rest of a frame. Raises ConnectionLost."""
        self._end(whole_frames=True)

    def _end(self, *, whole_frames: bool) -> None:
        connection = self._connection
        connection.asked = False
        connection.send(b"UNSUB %d\r\n" % REQUESTS_SID)
        ping = connection.send_ping()
        # INFO may come at any time.
        while connection.pongs < ping or (self._filled and whole_frames):
            self._receive(time.monotonic() + self._timeout_s)

    def ask_once(self, subject: str, data: bytes) -> bytes:
        """Publish a request, once, and wait for its answer; a missing responder is none."""
        for frame in self._ask(subject, data, again=False):
            if not frame[4].startswith(b"NATS/1.0 503"):
                return frame[5]
            raise NoAnswer(f"{self._connection.url}: nobody answers {subject}")
        raise AssertionError("it ends with NoAnswer only")

    def ask_parts(self, subject: str, data: bytes, *, timeout_s: float) -> Iterator[bytes]:
        """Publish a request, once; the body of each message that answers it, until the caller has
        all. Raises NoAnswer where nobody is there, and when no more come in time."""
        for frame in self._ask(subject, data, again=False, timeout_s=timeout_s):
            if frame[4].startswith(b"NATS/1.0 503"):
                raise NoAnswer(f"{self._connection.url}: nobody answers {subject}")
            yield frame[5]

    def see_to_connection(self) -> None:
        """For who owns the connection and is busy elsewhere between two requests: answer the
        server's pings. Raises ConnectionLost and JetStreamDenied."""
        self._receive(0.0)

    def _ask(
        self,
        subject: str,
        data: bytes,
        headers: bytes = b"",
        *,
        again: bool,
        timeout_s: float | None = None,
    ) -> Iterator[frames.Frame]:
        """Publish a request, ``again`` and again where it does no harm; what may be its answer,
        until the caller has the right one. Raises NoAnswer when none comes in time."""
        replies = {self._publish_to(subject, data, headers)}
        now = time.monotonic()
        deadline = now + (self._timeout_s if timeout_s is None else timeout_s)
        next_at = now + self._ask_again_s
        heard = ""
        while now < deadline:
            for frame in self._receive(min(deadline, next_at) if again else deadline):
                if frame[2] in replies:
                    yield frame
                    heard = f", but {frame[-1][:80]!r}"
            now = time.monotonic()
            if again and now >= next_at:
                next_at = now + self._ask_again_s
                replies.add(self._publish_to(subject, data, headers))
        raise NoAnswer(f"{self._connection.url}: no answer in time to {subject}{heard}")

    def _publish_to(self, subject: str, data: bytes, headers: bytes = b"") -> bytes:
        """Send a message with a subject for its answer, which no other has; that subject.

        ``headers`` is a whole block, from ``NATS/1.0`` to the empty line.
        """
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}".encode()
        place = b"%b %b" % (subject.encode(), reply)
        if headers:
            whole = len(headers) + len(data)
            frame = b"HPUB %b %d %d\r\n%b%b\r\n" % (place, len(headers), whole, headers, data)
        else:
            frame = b"PUB %b %d\r\n%b\r\n" % (place, len(data), data)
        self._connection.send(frame)
        return reply

    def _receive(self, until: float) -> list[frames.Frame]:
        """What came on our subscription, perhaps nothing yet. Everything else is seen to.

        Raises ConnectionLost also when the server hangs.
        """
        connection = self._connection
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(self._filled))
        # Together with the first read, what the reader before us left is looked at.
        wait = min(max(0.0, until - time.monotonic()), STEP_S)
        self._filled += connection.receive_into(self._buffer, self._filled, wait)
        try:
            found, others, end = frames.divide(self._buffer, 0, self._filled, REQUESTS_SID)
        except frames.ProtocolError as error:
            raise ConnectionLost(f"{connection.url}: {error}") from error
        if end:
            self._buffer[: self._filled - end] = self._buffer[end : self._filled]
            self._filled -= end
        if others:
            if not self._shared:
                raise RuntimeError("something was subscribed to while we ask: say `received`")
            self._others.append(others)
        ours = []
        for frame in found:
            if frame[0] in (frames.MSG, frames.HMSG):
                ours.append(frame)
            else:
                self._control(frame[0], frame[-1])
        connection.keep_alive()
        connection.still_there()
        return ours

    def _control(self, kind: int, text: bytes) -> None:
        refused = self._connection.handle(kind, text)
        if refused is not None and (not self._shared or self._is_about_us(refused)):
            raise JetStreamDenied(f"{self._connection.url}: the server said: {refused}")
        if kind == frames.INFO:
            self._others.append(b"INFO %b\r\n" % text)
        elif refused is not None:
            self._others.append(b"-ERR %b\r\n" % text)

    def _is_about_us(self, refused: str) -> bool:
        return "$JS." in refused or self._inbox in refused
