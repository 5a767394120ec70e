"""The interface of a confirmer: it numbers what is to be sent, sends it and knows what is stored.

There are three: ``pong.py`` (core mode: a PONG confirms), ``puback.py`` (stream mode: a PubAck
confirms), and ``fenced.py``, which replaces the latter in a group. In core mode a PONG confirms
whole batches, and one number stands for a batch; in stream mode, for a message. What is stored can
be looked up in stream mode only (``stream_lookup.py``). Only the publisher's thread uses a
confirmer.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alarmdigest.nats.connection import Connection
from alarmdigest.pipeline.batches import Outgoing
from alarmdigest.pipeline.inflight.blocked import PublishBlocked
from alarmdigest.pipeline.inflight.stream_lookup import StreamLookup
from alarmdigest.pipeline.inflight.window import InFlightBatch
from alarmdigest.runtime.counters import Counter
from alarmdigest.runtime.logs import LimitedLog

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ReadResult:
    """What one read has brought: the offset after the last whole frame, the frames that are no
    answers to messages, and why messages could not be published."""

    offset: int
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
    #: What looks up what is stored; None where there is nothing to look up.
    lookup: StreamLookup | None = None

    def counters(self) -> list[Counter]:
        """What else it counts, for /metrics."""
        return []

    @property
    def confirmations(self) -> int:
        """Grows with everything that is confirmed after it was added; not with what a replay found
        to be stored when it was added."""
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
        """Number the messages of these batches, which become one. None if ``go_on()`` was false
        before it was known which of them are stored already."""

    @abstractmethod
    def on_connected(self, connection: Connection) -> None:
        """A new connection: what was under way on the one before it may be lost.

        Raises ConnectionLost.
        """

    @abstractmethod
    def send(self, connection: Connection, most: int) -> PublishBlocked | None:
        """Send messages that may be sent, as long as not more than ``most`` are under way; why some
        cannot be, if so. Core mode ignores ``most``: nothing can be refused there that would have
        to be sent more slowly. Raises ConnectionLost.
        """

    @abstractmethod
    def read(self, buffer: bytearray, end: int) -> ReadResult:
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

    def too_large(self, largest: int, max_payload: int) -> PublishBlocked:
        return PublishBlocked(
            f"a digest of {largest} bytes exceeds the server's max_payload of {max_payload}: "
            "raise it there, or restart with a smaller --split-size",
            only_this_one=True,
        )
