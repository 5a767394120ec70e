"""A random input stream, and the digests that must come of it.

An event belongs to a user; a request asks for this user's digest, which tells the user's events
since the last one. Without any there is no digest; with many there are several, as when a digest is
split. The id of a digest is the sequence of its request times ``PARTS``, plus the part.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

USERS = 4
WORKERS = 2
PARTS = 4
EVENTS_IN_A_PART = 2

Events = tuple[int, ...]


def digests(request: int, events: Events) -> Iterator[tuple[int, Events]]:
    """Ids and contents of what a request makes of the user's events since the last request."""
    for part in range(PARTS):
        last = part == PARTS - 1
        begin = part * EVENTS_IN_A_PART
        body = events[begin:] if last else events[begin : begin + EVENTS_IN_A_PART]
        if body:
            yield request * PARTS + part, body


def worker_of(user: int) -> int:
    return user % WORKERS


class Input:
    """Message ``n`` (from 1 on) is ``users[n]``, ``requests[n]``, stored at ``times[n]``.

    ``first`` is the oldest that the stream still holds. ``expected`` has user and content by id,
    ``ids`` the ids in order, and ``made[n]`` how many ids belong to input up to n.
    """

    __slots__ = ("expected", "first", "ids", "length", "made", "requests", "sums", "times", "users")

    def __init__(self, rng: Random, seconds: float) -> None:
        self.length = length = rng.choice((6, 15, 30, 60))
        share = rng.choice((0.3, 0.5))
        # All of one user, or many interleaved.
        users = rng.choice((1, 2, USERS))
        self.users = [0] + [rng.randrange(users) for _ in range(length)]
        self.requests = [False] + [rng.random() < share for _ in range(length)]
        # Some come all at once, some spread over the time.
        start, width = rng.uniform(0, seconds * 0.5), rng.choice((0.01, 0.2, 1.0)) * seconds
        self.times = [0.0, *sorted(start + rng.random() * width for _ in range(length))]
        self.first = 1
        self.expected: dict[int, tuple[int, Events]] = {}
        self.made = [0]
        self.sums = [0]
        due: dict[int, Events] = {}
        for sequence in range(1, length + 1):
            user = self.users[sequence]
            if self.requests[sequence]:
                for id, body in digests(sequence, due.pop(user, ())):
                    self.expected[id] = (user, body)
            else:
                due[user] = (*due.get(user, ()), sequence)
            self.made.append(len(self.expected))
            self.sums.append(sum(self.expected))
        self.ids = list(self.expected)
