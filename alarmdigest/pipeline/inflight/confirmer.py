"""The interface of a confirmer: it numbers messages, sends them and knows which of them are stored.

There are two: ``pong.py`` (core mode: a PONG confirms) and ``puback.py`` (stream mode: a PubAck
confirms). A confirmer is used by the publisher's thread only.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import (
    ConnectionLost,
    JetStreamError,
    NatsError,
    NoAnswer,
    StreamMissing,
)
from alarmdigest.nats.jetstream import NO_LEADER
from alarmdigest.pipeline.batches import Outgoing
from alarmdigest.pipeline.inflight.window import InFlightBatch, Window
from alarmdigest.runtime.counters import Counter
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.state.position import Outputs, StreamPosition

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishBlocked:
    """Why messages cannot be published now. ``only_this_one``: others still can. ``passing``: it
    may be over in a moment. ``concerns``: which kind of messages."""

    reason: str
    only_this_one: bool = False
    passing: bool = False
    concerns: Literal["digests", "rejected messages"] = "digests"

    @property
    def what_is_kept(self) -> str:
        if self.concerns == "digests":
            return "digests cannot be published and are kept"
        return "rejected messages cannot be published and are kept"

    @classmethod
    def by(cls, error: NatsError) -> PublishBlocked:
        """What is wrong with a stream, or with asking for it."""
        passing = isinstance(error, (ConnectionLost, NoAnswer, StreamMissing)) or (
            isinstance(error, JetStreamError) and error.err_code in NO_LEADER
        )
        return cls(str(error), passing=passing)


@dataclass(slots=True)
class Answers:
    """What one read has brought: the position behind the last whole frame, the frames that are no
    answers to messages, and why messages could not be published."""

    position: int
    control: list[tuple[int, bytes]] = field(default_factory=list)
    blocked: list[PublishBlocked] = field(default_factory=list)


class Confirmer(ABC):
    """``digests`` and ``rejections`` were published and are confirmed, ``resent`` were sent again;
    ``rejections_given_up`` will never be published."""

    def __init__(self, digest_subject: str, rejected_subject: str) -> None:
        self.digest_subject = digest_subject.encode()
        self.rejected_subject = rejected_subject.encode()
        self.digests = 0
        self.rejections = 0
        self.rejections_given_up = 0
        self.resent = 0
        self._trouble = LimitedLog(log, logging.ERROR)

    #: Messages that could not be published and wait to be sent again.
    failed: int = 0
    #: Messages that were sent and need an answer each.
    under_way: int = 0
    #: Whether ``add`` has to ask the server first.
    add_asks: bool = False
    #: The names of the output streams, if there are any.
    streams: Sequence[str] = ()

    @property
    def looks_up_later(self) -> bool:
        """Whether something is left to be looked up that what is new need not wait for."""
        return False

    @property
    def stream_changes(self) -> dict[str, int]:
        """How often an output stream was found to be another one, or shorter, than before."""
        return {}

    def counters(self) -> list[Counter]:
        """What else it counts, for /metrics."""
        return []

    @property
    def confirmations(self) -> int:
        """Grows with everything that is confirmed."""
        return self.digests + self.rejections + self.rejections_given_up

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether as many messages are unconfirmed as may be."""

    @property
    @abstractmethod
    def sendable(self) -> bool:
        """Whether ``send`` has something to send."""

    @property
    @abstractmethod
    def sent_below(self) -> int:
        """All numbers below this one were sent, or need not be."""

    @property
    @abstractmethod
    def confirmed_below(self) -> int:
        """All numbers below this one are confirmed."""

    @abstractmethod
    def add(self, batches: Sequence[Outgoing], go_on: Callable[[], bool]) -> InFlightBatch | None:
        """Number the messages of these batches, which becomes one. None if ``go_on()`` was false
        before it was known which of them are stored already."""

    @abstractmethod
    def on_connected(self, connection: Connection) -> None:
        """A new connection: what was under way on the one before it may be lost.

        Raises ConnectionLost.
        """

    @abstractmethod
    def look_up(self, window: Window, go_on: Callable[[], bool], *, rest_only: bool) -> bool:
        """Find out what is stored of what was under way, and that more can be; whether to go on.

        ``rest_only``: only for streams that the last look-up had to leave out.

        Nothing is sent on a new connection before. What turns out not to be stored is to be sent
        again. Raises NatsError when it cannot be found out now.
        """

    def check_streams(self, go_on: Callable[[], bool]) -> bool:
        """See that the streams are there, and make those that are not; whether to go on.

        Raises NatsError for what is wrong with them.
        """
        return True

    def first_under_way(self) -> tuple[int, int]:
        """Two messages in flight: the oldest, and the oldest that a later one overtook (was
        confirmed before). Each by a number that identifies this sending of it; 0: none."""
        return 0, 0

    def lost_track(self, go_on: Callable[[], bool]) -> bool:
        """Whether the streams have another leader than at the last look-up, or are other streams.
        Then messages in flight may be lost and must be looked up. Raises NatsError while nobody
        can tell."""
        return False

    @abstractmethod
    def send(self, connection: Connection, most: int) -> PublishBlocked | None:
        """Send messages that may be sent, as long as not more than ``most`` are under way; why some
        cannot be, if so. Raises ConnectionLost.
        """

    @abstractmethod
    def read(self, buffer: bytearray, end: int) -> Answers:
        """Take in what the server sent. Raises ProtocolError."""

    @abstractmethod
    def on_pong(self, pongs: int) -> None:
        """So many PONGs have come on this connection."""

    @abstractmethod
    def on_server_error(self, message: str) -> PublishBlocked | None:
        """An -ERR that leaves the connection open; why digests cannot be published, if so."""

    @abstractmethod
    def retry(self) -> None:
        """What failed may be sent again."""

    @abstractmethod
    def output_positions(self) -> Outputs:
        """For each output stream, a position: every message added from now on is stored after it.
        Empty where there are no streams."""

    def requests_passed(  # noqa: B027 - only streams know replays
        self, position: StreamPosition, *, replay_ended: bool
    ) -> None:
        """Everything up to this input position has been added, and is confirmed.

        ``replay_ended``: so is whatever an earlier run may have read.
        """

    def too_large(self, largest: int, max_payload: int) -> PublishBlocked:
        return PublishBlocked(
            f"a digest of {largest} bytes exceeds the server's max_payload of {max_payload}: "
            "raise it there, or restart with a smaller --split-size",
            only_this_one=True,
        )
