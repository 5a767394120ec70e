"""Where in the input stream a consumer begins, so that it neither skips nor repeats.

We recognise the stream by the message at our position: its sequence and the time at which it was
stored, together. Neither its name nor ``created`` will do (nats-server before 2.15 gives a stream
another ``created`` at the restart after an edit), and a sequence alone may have been used twice.

If it is another message, the stream was recreated, put back from a copy, or has lost its tail, and
what it holds may be read for a second time. For events that is harmless. But a request that was
answered must not be answered again from a newer state. Only a message newer than everything we have
read is certainly new. So requests up to that time, and up to the stream's present end, are not
answered; what is due is sent with the user's next request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from alarmdigest._ext import timestamps
from alarmdigest.nats.answers import StartAt, StreamInfo
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.state.position import StreamPosition

# What begins by time begins so much earlier: the clocks of two servers, or of one before and
# after a power failure, differ by less.
CLOCKS_DIFFER_NS = 60 * 10**9
# Where the message at our position is deleted, so many before it are tried.
NEIGHBOURS = 32


class LastKnown(NamedTuple):
    """Messages at or before both of these may have been read before; no other."""

    sequence: int
    timestamp_ns: int


@dataclass(frozen=True, slots=True)
class ReadFrom:
    """Where to begin, and why. ``deleted_unread``: messages that the stream deleted before we read
    them."""

    at: StartAt
    kind: Literal["continues", "new_stream", "truncated", "first", "new", "time"]
    deleted_unread: int
    sentence: str
    last_known: LastKnown | None = None


def where_to_start(
    js: JetStream,
    info: StreamInfo,
    position: StreamPosition | None,
    default: Literal["first", "new"] | int = "first",
    *,
    newest_ns: int = 0,
) -> ReadFrom:
    """Where a consumer must begin so that it neither skips nor repeats; ``info`` must be fresh.

    ``default``, for when there is no position: first, new, or a time in ns. ``newest_ns`` is the
    arrival clock: no message that was read is newer.
    """
    if position is None:
        return _without_position(info, default, newest_ns)
    if (why := _difference(js, info, position, newest_ns)) is not None:
        return _start_again(js, info, position, why, max(newest_ns, position.timestamp_ns))
    deleted_unread = max(0, info.first_seq - position.sequence - 1)
    return ReadFrom(
        StartAt("sequence", position.sequence + 1),
        "continues",
        deleted_unread,
        f"{info.name}: continuing after message {position.sequence}" + _gone(deleted_unread),
    )


def _without_position(
    info: StreamInfo, default: Literal["first", "new"] | int, newest_ns: int
) -> ReadFrom:
    # What the state knows comes from plain subscriptions: they brought what the stream holds of
    # that time, too, and its requests were answered then.
    last_known = LastKnown(info.last_seq, newest_ns) if newest_ns > 0 else None
    if isinstance(default, int):
        sentence = f"{info.name}: starting at {timestamps.to_text(default)}"
        return ReadFrom(StartAt("time", default), "time", 0, sentence, last_known)
    sentence = f"{info.name}: starting with the {default} messages"
    return ReadFrom(StartAt(default), default, 0, sentence, last_known)


def _start_again(
    js: JetStream, info: StreamInfo, position: StreamPosition, why: str, newest_ns: int
) -> ReadFrom:
    """The stream is not the continuation of what we have read."""
    last_known = LastKnown(info.last_seq, newest_ns)
    # Only a hint, and it decides nothing but the words and what need not be read again.
    other = not _same_time(position.created, info.created) or why == _NUMBERS
    if other:
        deleted_unread = 0
        if (first := js.next_message(info.name, 1)) is None or first[1] > newest_ns:
            # Not one of its messages is ours: then those before its first were not, either.
            deleted_unread = max(0, info.first_seq - max(1, _first_ever(info)))
        return ReadFrom(
            StartAt("first"),
            "new_stream",
            deleted_unread,
            f"{info.name} was recreated at {info.created}, ours was of {position.created} ({why}): "
            "starting with its first message" + _gone(deleted_unread),
            last_known,
        )
    lost = f"{info.name} has lost its newest messages ({why})"
    begin_ns = position.timestamp_ns + 1 - CLOCKS_DIFFER_NS
    if begin_ns <= 0 or not _times_tell(info, position, newest_ns):
        # What was stored since then may be older than the last that we read: by time it would be
        # passed over.
        lost += ", or its server's clock has stepped back: starting with the first message"
        return ReadFrom(StartAt("first"), "truncated", 0, lost, last_known)
    at = timestamps.to_text(begin_ns)
    sentence = f"{lost}: starting at {at}, a little before the last that we read"
    return ReadFrom(StartAt("time", begin_ns), "truncated", 0, sentence, last_known)


def _times_tell(info: StreamInfo, position: StreamPosition, newest_ns: int) -> bool:
    """Whether all that was stored after our position's message has a later time, as far as the
    server's clock tells (before 2.10 it does not) and that of the messages that we read."""
    now_ns, time_ns = info.server_ns, position.timestamp_ns
    return now_ns is not None and now_ns > time_ns and newest_ns - time_ns < CLOCKS_DIFFER_NS


_NUMBERS = "its numbers begin after ours"


def _difference(
    js: JetStream, info: StreamInfo, position: StreamPosition, newest_ns: int
) -> str | None:
    """Why the stream is not the continuation of the one that we read; None if it is."""
    sequence, time_ns = position.sequence, position.timestamp_ns
    if info.last_seq < sequence:
        return f"its last is {info.last_seq}, we had read {sequence}"
    if sequence < 1:  # nothing was read yet
        return None
    if _first_ever(info) > sequence:
        return _NUMBERS
    stored = js.message_time_ns(info.name, sequence)
    if stored is not None:
        return None if stored == time_ns else f"{sequence} is another message now"
    return _difference_beside(js, info, position, newest_ns)


def _difference_beside(
    js: JetStream, info: StreamInfo, position: StreamPosition, newest_ns: int
) -> str | None:
    """The same where the message at our position is deleted: its neighbours tell."""
    sequence, time_ns = position.sequence, position.timestamp_ns
    before = _nearest_before(js, info, sequence)
    if before is not None and time_ns > 0 and before[1] > max(newest_ns, time_ns):
        return f"{sequence} is gone, and {before[0]} before it is newer than all that we read"
    after = js.next_message(info.name, sequence + 1)
    if after is None or after[1] >= time_ns:
        return None
    if before is not None and after[1] < before[1] <= time_ns:
        return None  # between these two the server's clock stepped back
    return f"{sequence} is gone, and {after[0]} after it is older"


def _nearest_before(js: JetStream, info: StreamInfo, sequence: int) -> tuple[int, int] | None:
    """Sequence and time of the last message before this one; where the ones before it are deleted,
    of the first in the stream. None if there is none."""
    lowest = max(info.first_seq, sequence - NEIGHBOURS)
    for one in range(sequence - 1, lowest - 1, -1):
        if (time_ns := js.message_time_ns(info.name, one)) is not None:
            return one, time_ns
    first = js.next_message(info.name, 1) if info.first_seq < sequence else None
    return first if first is not None and first[0] < sequence else None


def _first_ever(info: StreamInfo) -> int:
    """The sequence that the stream began with; servers before 2.10 know no other than 1."""
    return int(info.config.get("first_seq") or 1)


def _same_time(one: str, other: str) -> bool:
    try:
        return one == other or timestamps.to_ns(one) == timestamps.to_ns(other)
    except ValueError:
        return False


def _gone(count: int) -> str:
    return f"; {count} messages were deleted before we read them" if count else ""
