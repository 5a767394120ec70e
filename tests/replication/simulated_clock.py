"""A clock that jumps from one event to the next."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Clock:
    __slots__ = ("_count", "_events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heappush(self._events, (when, self._count, action, arguments))

    @property
    def events(self) -> int:
        """How many have been asked for: a measure of how much a schedule does."""
        return self._count

    def run(self, until: float, done: Callable[[], bool]) -> bool:
        """Whether ``done`` was true after an event before ``until``."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, action, arguments = heappop(events)
            action(*arguments)
            if done():
                return True
        self.now = max(self.now, until)
        return False
