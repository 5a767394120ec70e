"""Positions in streams: how far the input was read, and where each output stream stood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

UNKNOWN_NS = 2**62
"""As ``stepped_back_ns``: a timestamp may be earlier by any time than one before it."""


class Reread(NamedTuple):
    """The part of a stream that may have been read before, since it is not the one it was.

    Messages at or before both of the first two, unless the time of one is earlier than that of one
    before it by more than ``stepped_back_ns``. Requests among them are not answered again.
    """

    sequence: int
    timestamp_ns: int
    stepped_back_ns: int


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """The last message of the input stream that was read or passed over."""

    stream: str
    created: str
    """When the stream was created, as JetStream writes it: the same name may be another stream."""
    sequence: int
    timestamp_ns: int
    stepped_back_ns: int = 0
    """How much earlier, at most, a message's timestamp was than that of one before it."""
    reread: Reread | None = None
    """What of the stream after this position may have been read before."""

    def reaches(self, other: StreamPosition) -> bool:
        """Whether everything up to the other one was read. A stream that was recreated will never
        bring what an earlier run has read; its messages are later ones."""
        return self.sequence >= other.sequence or self.timestamp_ns > other.timestamp_ns


@dataclass(frozen=True, slots=True)
class OutputPosition:
    """A message of an output stream, after which lies whatever a checkpoint does not know of."""

    created: str
    """When the stream was created, as JetStream writes it. A hint: some servers change it."""
    sequence: int
    message_id: str = ""
    """The message's ``Nats-Msg-Id``: tells whether it is the same stream. Empty if not known."""


Outputs: TypeAlias = dict[str, OutputPosition]
"""By the names of the output streams."""


@dataclass(frozen=True, slots=True)
class ReplicaPosition:
    """What a replica of a group keeps with a checkpoint.

    ``digests`` and ``ids`` are how many digests it has made up to the checkpoint's position, and
    the sum of their ids modulo 2**128 in hexadecimal. ``word`` is the leader's word by which the
    checkpoint was complete, as it is written in beats. ``start`` is the sequence of the first input
    message that the group's state has known, 0 if that is not known. ``group`` is empty in what
    the first versions wrote.
    """

    digests: int
    ids: str
    word: dict[str, Any]
    start: int = 0
    group: str = ""
