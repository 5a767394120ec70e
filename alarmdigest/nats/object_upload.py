"""The chunks of one object on their way into its bucket, many at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from alarmdigest._ext import frames
from alarmdigest.nats.answers import status_of
from alarmdigest.nats.errors import BadAnswer, JetStreamError, JetStreamOff, NoAnswer
from alarmdigest.nats.jetstream import read_pub_ack
from alarmdigest.nats.object_bucket import ObjectDamaged

# So many chunks are on their way at most.
WINDOW = 32


class Upload:
    """Publishes chunks and checks their PubAcks. ``chunks``, ``size`` in bytes and ``digest`` are
    of what was published so far."""

    def __init__(
        self,
        publish: Callable[[bytes], bytes],
        receive: Callable[[float], list[frames.Frame]],
        stream: str,
        subject: str,
        timeout_s: float,
    ) -> None:
        """``publish`` sends a chunk and returns where its answer comes; ``receive`` waits for
        answers until a time of the monotonic clock, or less. No answer to any chunk for
        ``timeout_s`` seconds is an error."""
        self._publish = publish
        self._receive = receive
        self._stream = stream
        self._subject = subject
        self._timeout_s = timeout_s
        # In the order in which they were published; the sequence once it is known.
        self._waiting: dict[bytes, int] = {}
        self._last_seq = 0
        self._hash = hashlib.sha256()
        self.chunks = self.size = 0

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    def write(self, pieces: Iterable[bytes], chunk_bytes: int) -> None:
        """Publish all pieces in chunks of this size, and wait until all are stored.

        Raises JetStreamError if one is refused, ObjectDamaged if they are stored in another order,
        NoAnswer, JetStreamOff and ConnectionLost.
        """
        chunk = bytearray()
        for piece in pieces:
            with memoryview(piece) as view:
                at = 0
                while at < len(view):
                    room = chunk_bytes - len(chunk)
                    chunk += view[at : at + room]
                    at += room
                    if len(chunk) == chunk_bytes:
                        self._write_chunk(bytes(chunk))
                        chunk.clear()
        if chunk:
            self._write_chunk(bytes(chunk))
        self._wait_for_answers(0)

    def settle(self) -> None:
        """After an error: wait until no chunk is on its way any more. Raises NoAnswer and
        ConnectionLost."""
        while self._waiting:
            with suppress(JetStreamError, JetStreamOff, ObjectDamaged):
                self._wait_for_answers(0)

    def _write_chunk(self, chunk: bytes) -> None:
        self._wait_for_answers(WINDOW - 1)
        self._hash.update(chunk)
        self._waiting[self._publish(chunk)] = 0
        self.chunks += 1
        self.size += len(chunk)

    def _wait_for_answers(self, most: int) -> None:
        """Until at most so many are on their way."""
        deadline = time.monotonic() + self._timeout_s
        while len(self._waiting) > most:
            if time.monotonic() >= deadline:
                raise NoAnswer(f"{len(self._waiting)} chunks on {self._subject} are not confirmed")
            errors = []
            for _kind, _sid, to, _reply, headers, payload in self._receive(deadline):
                if to in self._waiting:
                    try:
                        self._take_answer(to, headers, payload)
                    except (JetStreamError, JetStreamOff, ObjectDamaged) as error:
                        errors.append(error)
                    deadline = time.monotonic() + self._timeout_s
            if errors:
                raise errors[0]

    def _take_answer(self, to: bytes, headers: bytes, payload: bytes) -> None:
        if status_of(headers) == 503:
            del self._waiting[to]
            raise JetStreamOff(f"no stream captures {self._subject}")
        try:
            stream, seq, _domain = read_pub_ack(payload, self._subject)
        except JetStreamError:
            del self._waiting[to]
            raise
        except BadAnswer:  # of a stranger who has subscribed to the subject
            return
        if stream != self._stream:
            return
        self._waiting[to] = seq
        while self._waiting and (first := next(iter(self._waiting.items())))[1]:
            del self._waiting[first[0]]
            if first[1] <= self._last_seq:
                raise ObjectDamaged(f"chunks on {self._subject} are stored in another order")
            self._last_seq = first[1]
