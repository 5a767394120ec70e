"""Why messages cannot be published now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alarmdigest.nats.errors import (
    ConnectionLost,
    JetStreamError,
    NatsError,
    NoAnswer,
    StreamMissing,
)
from alarmdigest.nats.jetstream import NO_LEADER


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
