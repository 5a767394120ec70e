"""Random histories in which the rule has something to decide.

A history has few users, few alarms and few times, so that collisions, ties, repeats and late
arrivals are the normal case. Its ids are odd ones: they are data and must never be more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from hypothesis import strategies as st
from model import (
    BEYOND,
    EARLIEST,
    FAR_FUTURE,
    MAX_ID_BYTES,
    RETENTION_NS,
    SECOND_NS,
    SKEW_NS,
    Event,
    Forget,
    Message,
    Request,
    Status,
    format_time,
)

START = 1_623_098_415_598_765_212  # 2021-06-07T20:40:15.598765212Z; every history begins here

History = list[tuple[Message, int]]

_PLAIN_IDS = ["a", "b", "c", "aa", "ab", "bc", "abc"]
_ODD_IDS = [
    "\0",
    "a\0",
    "\x01\x1f\x7f\x80\x9f",
    "\r\n\t ",
    " a",
    ".",
    "*",
    ">",
    "a.*.>",
    '"',
    "\\",
    '\\"',
    "\\u0041",
    "'; --",
    "../../etc",
    "{}",
    "A",
    "é",
    "e\u0301",
    "\u2028",
    "\ufeffa",
    "\ufffe",
    "\uffff",  # sorts before the next one in UTF-8 and after it in UTF-16
    "\U00010000",
    "\U0010ffff",
    "a" * MAX_ID_BYTES,
    "\0" * MAX_ID_BYTES,
    "é" * (MAX_ID_BYTES // 2),
    "\U0001f514" * (MAX_ID_BYTES // 4),
    "a" * (MAX_ID_BYTES - 3) + "\u20ac",
]

# A book keeps what is written like the first two as 16 bytes, and nothing else.
_UUIDS = [
    "00000000-0000-0000-0000-000000000000",
    "0189abcd-ef01-7234-89ab-cdef01234567",
    "0189ABCD-EF01-7234-89AB-CDEF01234567",
    "0189abcd-ef01-7234-89ab-cdef0123456g",
    "0189abcd-ef01-7234-89ab-cdef0123456:",  # between 9 and a
    "0189abcd-ef01-7234-89ab_cdef01234567",
    "0189abcdef01-7234-89ab-cdef-01234567",
    "0189abcd-ef01-7234-89ab-cdef012345678",
    "{189abcd-ef01-7234-89ab-cdef0123456}",
]


def _characters() -> st.SearchStrategy[str]:
    """Any character, each of Unicode's 17 planes as likely as the next; no surrogates."""
    return (
        st.tuples(st.integers(0, 16), st.integers(0, 0xFFFF))
        .map(lambda place: place[0] * 0x10000 + place[1])
        .filter(lambda point: not 0xD800 <= point <= 0xDFFF)
        .map(chr)
    )


def ids() -> st.SearchStrategy[str]:
    """A valid UserID or AlarmID: 1 to 1,024 bytes of UTF-8."""
    return st.one_of(
        st.sampled_from(_PLAIN_IDS),
        st.sampled_from(_ODD_IDS),
        st.sampled_from(_UUIDS),
        st.text(_characters(), min_size=1, max_size=8),
    )


def _id_pools(most: int) -> st.SearchStrategy[list[str]]:
    """A few ids to collide on, often with one that is another's prefix plus a character."""

    def with_prefixed(base: list[str]) -> st.SearchStrategy[list[str]]:
        longer = [base[0] + end for end in ("\0", "a", "\U0010ffff")]
        fitting = [one for one in longer if len(one.encode()) <= MAX_ID_BYTES]
        return st.sampled_from([base, *([*base, one] for one in fitting)])

    return st.lists(ids(), min_size=1, max_size=most, unique=True).flatmap(with_prefixed)


def instants() -> st.SearchStrategy[int]:
    """A `changed_at` in nanoseconds that a publisher may write: small, usual, or at a bound."""
    return st.one_of(
        st.integers(0, 3),
        st.integers(START - 2, START + 2),
        st.sampled_from([EARLIEST, EARLIEST + 1, -SECOND_NS, -1, BEYOND - 1, FAR_FUTURE]),
        st.integers(EARLIEST, BEYOND - 1),
    )


def messages(
    users: st.SearchStrategy[str] | None = None,
    alarms: st.SearchStrategy[str] | None = None,
    times: st.SearchStrategy[int] | None = None,
) -> st.SearchStrategy[Message]:
    """One message, three events to a request, and seldom a user to forget; by default of any id and
    any time."""
    event = events(users, alarms, times)
    whom = ids() if users is None else users
    request: st.SearchStrategy[Message] = st.builds(Request, whom)
    forget: st.SearchStrategy[Message] = st.builds(Forget, whom)
    others = {15: forget, 14: request, 13: request, 12: request}
    return st.integers(0, 15).flatmap(lambda kind: others.get(kind, event))


def events(
    users: st.SearchStrategy[str] | None = None,
    alarms: st.SearchStrategy[str] | None = None,
    times: st.SearchStrategy[int] | None = None,
) -> st.SearchStrategy[Event]:
    """One event; by default of any id and any time."""
    return st.builds(
        Event,
        user=ids() if users is None else users,
        alarm=ids() if alarms is None else alarms,
        status=st.sampled_from(Status),
        changed_at=instants() if times is None else times,
    )


@dataclass(frozen=True)
class _Ahead:
    """An event whose `changed_at` counts from its own arrival, as a live publisher's does."""

    event: Event


@dataclass(frozen=True)
class _Again:
    """The message so many places back, delivered once more."""

    back: int


_AHEAD = [-RETENTION_NS, -1, 0, 1, SKEW_NS - 1, SKEW_NS, SKEW_NS + 1, 2 * SKEW_NS]
_GAPS = [
    *[1] * 12,
    *[2, SECOND_NS, SKEW_NS - 1, SKEW_NS, SKEW_NS + 1],
    *[RETENTION_NS - 1, RETENTION_NS, RETENTION_NS + 1, RETENTION_NS + 1, 3 * RETENTION_NS],
]


@st.composite
def histories(draw: st.DrawFn, min_size: int = 0, max_size: int = 40) -> History:
    """Messages in order of arrival, each with its arrival in nanoseconds, strictly increasing.

    Made for the default skew and retention: gaps lie around both, so that clamping,
    forgetting and their last nanosecond happen often.
    """
    users = st.sampled_from(draw(_id_pools(2)))
    alarms = st.sampled_from(draw(_id_pools(3)))
    times = st.sampled_from(draw(st.lists(instants(), min_size=1, max_size=3)))
    moves = st.one_of(
        messages(users, alarms, times),
        messages(users, alarms, times),
        st.builds(Request, users),
        events(users, alarms, st.sampled_from(_AHEAD)).map(_Ahead),
        st.integers(1, 6).map(_Again),
    )
    history: History = []
    arrival = START
    # A list left to choose its own length is mostly too short for anything to happen in it.
    size = draw(st.integers(min_size, max_size))
    step = st.tuples(moves, st.sampled_from(_GAPS))
    for move, gap in draw(st.lists(step, min_size=size, max_size=size)):
        arrival += gap
        if isinstance(move, _Ahead):
            event = move.event
            message: Message = replace(event, changed_at=arrival + event.changed_at)
        elif isinstance(move, _Again):
            # With nothing to repeat yet, a request that finds nothing.
            message = history[-move.back][0] if len(history) >= move.back else Request("nobody")
        else:
            message = move
        history.append((message, arrival))
    return history


def event_body(event: Event, *, user_name: str = "UserID", ascii_only: bool = False) -> bytes:
    """The JSON a publisher writes for an event: Go's `user_name` is `UserId`.

    `ascii_only` writes every other character as an escape. FAR_FUTURE is written as the last
    time that 64 bits hold, which reads as FAR_FUTURE again.
    """
    fields = {
        "AlarmID": event.alarm,
        user_name: event.user,
        "Status": event.status.name,
        "ChangedAt": format_time(event.changed_at),
    }
    return _json(fields, ascii_only)


def request_body(
    request: Request | Forget, *, user_name: str = "UserID", ascii_only: bool = False
) -> bytes:
    """The JSON a publisher writes to ask for a digest, or to have a user forgotten."""
    return _json({user_name: request.user}, ascii_only)


def _json(fields: dict[str, str], ascii_only: bool) -> bytes:
    return json.dumps(fields, ensure_ascii=ascii_only, separators=(",", ":")).encode()
