"""What has been sent and is not confirmed yet, in order.

A window belongs to the publisher's thread.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alarmdigest.batches import Outgoing
from alarmdigest.histogram import Histogram
from alarmdigest.logs import LimitedLog
from alarmdigest.nats.connection import Connection
from alarmdigest.store.base import Outputs

log = logging.getLogger(__name__)

MAX_UNCONFIRMED_BYTES = 32 * 1024 * 1024


class Held(Exception):
    """Digests cannot be published now: why. All of them are kept, and sent again later."""


@dataclass(slots=True)
class Sent:
    """A batch that is not confirmed. Core: ``ping`` is the number of the PING behind it.
    Stream: ``first`` is the number of its first message, ``count`` how many it has."""

    batch: bytes
    id_prefix: bytes = b""
    first: int = 0
    count: int = 0
    sent: bool = False
    sent_at: float = 0.0
    kept_at: float = 0.0
    # When requests were read, and how many, whose digests have not been sent before, also not by
    # an earlier run.
    answers: Sequence[tuple[float, int]] = ()
    ping: int = 0
    digests: int = 0
    refusals: int = 0
    given_up: int = 0  # refusals that the server did not take, or that were not sent to it


def joined(batches: Sequence[Outgoing]) -> bytes:
    return b"".join([batch.records for batch in batches])


def answers_in(batches: Sequence[Outgoing]) -> list[tuple[float, int]]:
    return [(batch.read_at, batch.answered) for batch in batches if batch.answered]


class Window(ABC):
    """Batches and marks in order, from the first batch that is not confirmed on."""

    #: Whether what was held is sent on a new connection.
    reconnects_when_held = False

    def __init__(self, digest_subject: str, rejected_subject: str) -> None:
        self._digest_subject = digest_subject.encode()
        self._rejected_subject = rejected_subject.encode()
        self._entries: deque[Sent | Callable[[], None]] = deque()
        self._unsent: deque[Sent] = deque()
        self.unconfirmed_bytes = 0
        self.digests = 0
        self.refusals = 0
        self.refusals_given_up = 0
        self.resent = 0
        # In seconds: from reading a request to handing its digest to the socket, for each request;
        # framing and writing, and waiting for the confirmation, for each batch.
        self.answering = Histogram()
        self.sending = Histogram()
        self.confirming = Histogram()
        self._trouble = LimitedLog(log, logging.ERROR)

    @property
    def empty(self) -> bool:
        return not self._entries

    @property
    def oldest_unconfirmed_s(self) -> float:
        """How long the first of what is not confirmed has been here; 0 when there is none.

        Any thread may ask.
        """
        for entry in self._entries.copy():
            if isinstance(entry, Sent):
                return time.monotonic() - entry.kept_at
        return 0.0

    @property
    def full(self) -> bool:
        return self.unconfirmed_bytes > MAX_UNCONFIRMED_BYTES

    @property
    def unsent(self) -> bool:
        """Whether something is kept that this connection has not been given."""
        return bool(self._unsent)

    def keep(self, batches: Sequence[Outgoing]) -> None:
        """Take these as one batch, to be sent by the next ``send``."""
        entry = self._numbered(batches)
        entry.kept_at = time.monotonic()
        self._entries.append(entry)
        self._unsent.append(entry)
        self.unconfirmed_bytes += len(entry.batch)

    def mark(self, done: Callable[[], None]) -> None:
        """Have ``done`` called as soon as all that has been kept so far is confirmed."""
        self._entries.append(done)

    def send(self, connection: Connection) -> None:
        """Send what is kept and has not been sent. Raises Held, ConnectionLost."""
        while self._unsent:
            entry = self._unsent[0]
            started = time.monotonic()
            self._write(connection, entry)
            entry.sent = True
            entry.sent_at = time.monotonic()
            self.sending.observe(entry.sent_at - started)
            for read_at, count in entry.answers:
                self.answering.observe(entry.sent_at - read_at, count)
            entry.answers = ()
            self._unsent.popleft()

    def forget_sent(self) -> None:
        """The connection is gone, or what it was given was refused: all is to be sent again."""
        self._unsent = deque(self._sent())
        for entry in self._unsent:
            if entry.sent:
                entry.sent = False
                self.resent += entry.digests + entry.refusals

    def release(self) -> bool:
        """Let go what is confirmed, and call the marks in between; whether there was any."""
        released = False
        while self._entries:
            entry = self._entries[0]
            if isinstance(entry, Sent):
                if not self._confirmed(entry):
                    break
                self.unconfirmed_bytes -= len(entry.batch)
                self._count(entry)
                if entry.sent:
                    self.confirming.observe(time.monotonic() - entry.sent_at)
                released = True
            self._entries.popleft()
            if not isinstance(entry, Sent):
                entry()
        # What the output stream turned out to hold need not be sent again.
        while self._unsent and self._confirmed(self._unsent[0]):
            self._unsent.popleft()
        return released

    def _sent(self) -> list[Sent]:
        return [entry for entry in self._entries if isinstance(entry, Sent)]

    @abstractmethod
    def opened(self, connection: Connection) -> None:
        """Prepare a new connection. Raises NatsError."""

    @abstractmethod
    def scan(self, buffer: bytearray, end: int) -> tuple[int, list[tuple[int, bytes]]]:
        """Take in what the server sent: the position behind it, and the frames for others.

        Raises ProtocolError, Held.
        """

    @abstractmethod
    def ponged(self, pongs: int) -> None:
        """So many PONGs have come on this connection."""

    @abstractmethod
    def server_refused(self, message: str) -> None:
        """An -ERR that leaves the connection open. Raises Held when it is about digests."""

    @abstractmethod
    def check(self) -> None:
        """Raises Held when a confirmation takes too long."""

    @abstractmethod
    def outputs(self) -> Outputs:
        """For each output stream a place that has no message behind it for which ``keep`` has been
        called before; empty where there are none."""

    def replay_finished(self) -> None:  # noqa: B027 - only streams know replays
        """Everything that an earlier run may have read has been read again, and all that was made
        of it has been kept."""

    @abstractmethod
    def _numbered(self, batches: Sequence[Outgoing]) -> Sent: ...

    @abstractmethod
    def _write(self, connection: Connection, entry: Sent) -> None: ...

    @abstractmethod
    def _confirmed(self, entry: Sent) -> bool: ...

    @abstractmethod
    def _count(self, entry: Sent) -> None: ...

    def _too_large(self, largest: int, connection: Connection) -> Held:
        return Held(
            f"a digest of {largest} bytes exceeds the server's max_payload of "
            f"{connection.max_payload}: raise it there, or restart with a smaller --split-size"
        )
