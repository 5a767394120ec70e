"""Users, their alarms and ids of any number and length, as loads that are quickly made.

``load.py`` writes each event by itself; ten million would take it a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

EVENT = b'{"AlarmID":"%b","UserID":"%b","Status":"WARNING","ChangedAt":"%b"}'
# Stands for the user in an event of any user, in both ids, until it is replaced.
ANY_USER = b"UUUUU"
CHUNK_EVENTS = 2_000_000
NEIGHBOURS = 25


@dataclass(frozen=True)
class Population:
    """So many ``users`` with so many ``alarms`` each; all ids have one length, from 8 bytes on."""

    users: int
    alarms: int
    id_bytes: int = 36

    @property
    def total(self) -> int:
        return self.users * self.alarms

    def event(self, user: bytes, alarm: int, changed_at: bytes) -> bytes:
        """A PUB frame."""
        room = self.id_bytes - len(user)
        body = EVENT % (b"%0*x%b" % (room, alarm, user), b"0" * room + user, changed_at)
        return b"PUB AlarmStatusChanged %d\r\n%b\r\n" % (len(body), body)

    def first(self) -> Iterator[bytes]:
        """An event for each alarm, one user after the other, in chunks."""
        of_one = b"".join(
            self.event(ANY_USER, alarm, b"2021-06-07T20:00:00Z") for alarm in range(self.alarms)
        )
        step = max(1, CHUNK_EVENTS // self.alarms)
        for start in range(0, self.users, step):
            yield b"".join(
                of_one.replace(ANY_USER, b"%05x" % user)
                for user in range(start, min(start + step, self.users))
            )

    def newer(self, numbers: Iterable[int]) -> bytes:
        """An event for each of these alarms, as they are counted over all users; each event is
        newer than all before it. See ``later``."""
        return b"".join(
            self.event(
                b"%05x" % (number // self.alarms),
                number % self.alarms,
                b"2021-06-07T20:01:00.%09dZ" % place,
            )
            for place, number in enumerate(numbers)
        )

    def neighbours(self, count: int) -> list[int]:
        """So many alarms, or all: 25 that follow each other here, 25 there, all over it."""
        runs = min(count, self.total) // NEIGHBOURS
        step = self.total // runs
        return [run * step + number for run in range(runs) for number in range(NEIGHBOURS)]

    def at_random(self, count: int) -> list[int]:
        """So many alarms, some of them more than once."""
        return Random(1).choices(range(self.total), k=count)


def later(newer: bytes, minute: int) -> bytes:
    """The same events, some minutes newer."""
    return newer.replace(b"T20:01:", b"T20:%02d:" % minute)
