"""What the listener asks of where its messages come from.

A source knows what to ask the server for on a new connection, when to ask for more, and what its
answers mean. It belongs to the listener thread.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from alarmdigest._ext.router import Router
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import NatsError
from alarmdigest.runtime.counters import Counter
from alarmdigest.state.position import StreamPosition


class Source(ABC):
    """Where messages come from."""

    #: Whether the listener may drop messages rather than wait for workers or publisher.
    lossy: bool
    #: True when a crash before the first checkpoint would start at another message.
    start_not_replayable = False

    @abstractmethod
    def open(self, connection: Connection, router: Router, received: bytes | None) -> None:
        """Ask for messages: on a new connection, or anew on the same one. Then ``received`` is what
        was read and not dealt with; it is dropped, with all that comes until this returns.

        Raises ConnectionLost, or another NatsError: then it may be tried again on the connection.
        """

    @abstractmethod
    def hear(self, connection: Connection, router: Router) -> None:
        """Called after every read: take in answers to our questions, which may bring messages too;
        those are routed."""

    def can_do_without(self, refused: str) -> bool:
        """Whether what a server refused with these words is nothing that we need."""
        return False

    @abstractmethod
    def consuming(self, connection: Connection) -> bool:
        """Whether what is published now will reach us."""

    @abstractmethod
    def request_more(self, connection: Connection, router: Router, *, pause: bool) -> None:
        """Called after a read, but not while it is being opened, nor after stop(): ask for more,
        unless told to pause. Raises ConnectionLost, or ConsumerGone when it must be opened anew."""

    @abstractmethod
    def status(self, headers: bytes, router: Router) -> None:
        """A message that is not input. Raises ConsumerGone."""

    @abstractmethod
    def stop(self, connection: Connection) -> None:
        """Ask for no more. A lossy source still delivers what is on its way; what a stream holds is
        read by the next start."""

    @abstractmethod
    def stopped(self, connection: Connection) -> bool:
        """Whether nothing is left to wait for after stop()."""

    @abstractmethod
    def position(self, router: Router) -> StreamPosition | None:
        """The last message that was read or passed over, for the next start."""

    def now_ns(self) -> int:
        """Our clock, for the arrival of what is no stream's; ns since 1970."""
        return time.time_ns()

    @property
    def arrival_steps(self) -> int:
        """How often a clock that arrivals depend on has stepped by more than a day."""
        return 0

    @abstractmethod
    def behind(self, router: Router) -> int | None:
        """Messages that wait after the last one that was read; None where nobody knows."""

    @abstractmethod
    def on_disconnect(self, reason: NatsError) -> None:
        """The connection is gone, or messages do not come any more: say what this means."""

    @abstractmethod
    def losses(self, router: Router) -> dict[str, int]:
        """Messages lost since the start of the process, by the place where they were."""

    @property
    def expired_unread(self) -> int:
        """Of these, messages that others may have read: limits or a purge have removed them."""
        return 0

    @property
    def stream_changes(self) -> dict[str, int]:
        """How often the stream was found to be another one, or shorter, than before."""
        return {}

    def counters(self, router: Router) -> list[Counter]:
        """What else it counts, for /metrics."""
        return []
