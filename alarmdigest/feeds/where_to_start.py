"""Where in the input stream a consumer begins, so that it neither skips nor repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from alarmdigest._ext import timestamps
from alarmdigest.nats.answers import StartAt, StreamInfo
from alarmdigest.nats.jetstream import JetStream


class Place(Protocol):
    """The last message of the stream that was dealt with (``store.base.Position``)."""

    @property
    def created(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def timestamp_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin, and why. ``gone``: messages that the stream deleted before we read them."""

    at: StartAt
    kind: Literal["continues", "new_stream", "rolled_back", "first", "new", "time"]
    gone: int
    sentence: str


def where_to_start(
    js: JetStream,
    info: StreamInfo,
    position: Place | None,
    default: Literal["first", "new"] | int = "first",
) -> Start:
    """Where a consumer must begin so that it neither skips nor repeats; ``info`` must be fresh.

    ``default``, for when there is no position: first, new, or a time in ns. A stream may have been
    made anew, or have lost its tail to a power failure and used the numbers again: a sequence
    alone does not say that a message is the same one.
    """
    name = info.name
    if position is None:
        if isinstance(default, int):
            at = timestamps.to_text(default)
            return Start(StartAt("time", default), "time", 0, f"{name}: starting at {at}")
        return Start(StartAt(default), default, 0, f"{name}: starting with the {default} messages")
    if not _same_time(position.created, info.created):
        gone = max(0, info.first_seq - max(1, int(info.config.get("first_seq", 0))))
        return Start(
            StartAt("first"),
            "new_stream",
            gone,
            f"{name} was made anew at {info.created}, ours was of {position.created}: starting "
            "with its first message" + _gone(gone),
        )
    if (found := _rolled_back(js, info, position)) is not None:
        why, clock_stepped = found
        at = timestamps.to_text(position.timestamp_ns)
        lost = f"{name} has lost its newest messages ({why})"
        if clock_stepped:
            # What was stored since then may be older than the last that we read: by time it would
            # be passed over. To read again what we know changes nothing.
            why = "or its server's clock has stepped back: starting with the first message"
            return Start(StartAt("first"), "rolled_back", 0, f"{lost}, {why}")
        behind = StartAt("time", position.timestamp_ns + 1)
        return Start(behind, "rolled_back", 0, f"{lost}: starting behind {at}")
    gone = max(0, info.first_seq - position.sequence - 1)
    return Start(
        StartAt("sequence", position.sequence + 1),
        "continues",
        gone,
        f"{name}: going on behind message {position.sequence}" + _gone(gone),
    )


def _rolled_back(js: JetStream, info: StreamInfo, position: Place) -> tuple[str, bool] | None:
    """Why the stream is not the continuation of the one that we read, and whether its times may
    mislead; None if it is the continuation."""
    sequence, time_ns = position.sequence, position.timestamp_ns
    stepped = info.server_ns is not None and info.server_ns <= time_ns
    if info.last_seq < sequence:
        return f"its last is {info.last_seq}, we had read {sequence}", stepped
    if sequence < 1:  # nothing was read yet
        return None
    stored = js.message_time_ns(info.name, sequence)
    if stored is not None:
        return None if stored == time_ns else (f"{sequence} is another message now", stepped)
    following = js.next_message(info.name, sequence + 1)
    if following is not None and following[1] < time_ns:
        return f"{sequence} is gone, and {following[0]} behind it is older", True
    return None


def _same_time(one: str, other: str) -> bool:
    try:
        return one == other or timestamps.to_ns(one) == timestamps.to_ns(other)
    except ValueError:
        return False


def _gone(count: int) -> str:
    return f"; {count} messages were deleted before we read them" if count else ""
