"""Who is due, and when each is to be told."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import NamedTuple

from alarmdigest.connect.schedule.schedule import FOREVER_NS

# So much later than its time nothing is looked at again.
LATE_NS = 10**9
# Finding the time of a user takes some microseconds, at worst some tens.
USERS_AT_ONCE = 10_000


class Waiting(NamedTuple):
    """A user with due alarms: since when (ns), whether one is critical, when he is told (ns)."""

    since_ns: int
    critical: bool
    at_ns: int


class Due(NamedTuple):
    """A user whose time has come, as he was entered."""

    user: str
    waiting: Waiting


class Agenda:
    """For one thread. ``due_at(user, since_ns, critical, not_before_ns)`` is when a user is to be
    told in ns, None for one without a schedule: he is not entered.

    A million users who wait for the same instant are one entry of the heap.
    """

    def __init__(self, due_at: Callable[[str, int, bool, int], int | None]) -> None:
        self._due_at = due_at
        self._waiting: dict[str, Waiting] = {}
        self._at: dict[int, list[str]] = {}
        self._instants: list[int] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, user: str, since_ns: int, critical: bool) -> bool:
        """Enter a user who is due, or what is new about him: the first time counts, and the worst
        status. False for one without a schedule."""
        before = self._waiting.get(user)
        if before is not None:
            since_ns, critical = min(since_ns, before.since_ns), critical or before.critical
            if (since_ns, critical) == before[:2]:
                return True
        return self._enter(user, since_ns, critical)

    def _enter(self, user: str, since_ns: int, critical: bool, not_before_ns: int = 0) -> bool:
        before = self._waiting.get(user)
        at_ns = self._due_at(user, since_ns, critical, not_before_ns)
        if at_ns is None:
            return False
        self._waiting[user] = Waiting(since_ns, critical, at_ns)
        if at_ns != FOREVER_NS and (before is None or before.at_ns != at_ns):
            if (users := self._at.get(at_ns)) is None:
                users = self._at[at_ns] = []
                heapq.heappush(self._instants, at_ns)
            users.append(user)
        return True

    def take(self, now_ns: int, most: int) -> list[Due]:
        """Of those whose time has come, those who have waited longest for it, at most so many:
        they are out. Fewer do not mean that there are no more.

        Who should have been told some time ago, while nobody could, is told now only if his
        schedule lets him be told now.
        """
        found: list[Due] = []
        left = most + USERS_AT_ONCE  # some of them may not be due any more
        while self._instants and self._instants[0] <= now_ns and len(found) < most and left > 0:
            at_ns = self._instants[0]
            users = self._at[at_ns]
            while users and len(found) < most and left > 0:
                left -= 1
                user = users.pop()
                waiting = self._waiting.get(user)
                if waiting is None or waiting.at_ns != at_ns:  # it has changed since
                    continue
                del self._waiting[user]
                if now_ns - at_ns > LATE_NS:
                    later_ns = self._due_at(user, *waiting[:2], now_ns)
                    if later_ns is None or later_ns > now_ns:
                        self._enter(user, *waiting[:2], now_ns)
                        continue
                found.append(Due(user, waiting))
            if not users:
                del self._at[at_ns]
                heapq.heappop(self._instants)
        return found

    def put_back(self, due: Iterable[Due]) -> None:
        """They were not told after all."""
        for user, waiting in due:
            self.add(user, waiting.since_ns, waiting.critical)

    def schedule_changed(self, user: str) -> None:
        if (waiting := self._waiting.pop(user, None)) is not None:
            self.add(user, waiting.since_ns, waiting.critical)

    def schedules_changed(self, now_and_then: Callable[[], None]) -> None:
        """Those of many, or that of all others. ``now_and_then`` is called meanwhile; what it
        raises leaves some users out."""
        before = self._waiting
        self._waiting = {}
        self._at.clear()
        self._instants.clear()
        for count, one in enumerate(before.items(), 1):
            if count % USERS_AT_ONCE == 0:
                now_and_then()
            self.put_back([Due(*one)])

    def clear(self) -> None:
        self._waiting.clear()
        self._at.clear()
        self._instants.clear()

    @property
    def next_ns(self) -> int | None:
        """When somebody's time comes, or, where that has changed since, came; None for nobody.
        Another thread may ask, too."""
        try:
            return self._instants[0]
        except IndexError:
            return None
