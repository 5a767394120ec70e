"""The newest incidents: what was lost or recreated, in which stream, and when.

The code that counts an incident also records it here, so that an operator need not search the log
for it. Any thread may record one.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass

KEPT = 50


@dataclass(frozen=True, slots=True)
class Incident:
    """``kind`` is a place of a loss or a change of a stream, as the metrics call them; ``count``
    is how many messages were lost, as far as that is known."""

    at_ns: int
    kind: str
    count: int
    sentence: str


class Incidents:
    """The newest KEPT, and how much of each kind was recorded in all."""

    def __init__(self) -> None:
        self._newest: deque[Incident] = deque(maxlen=KEPT)
        self._recorded: Counter[str] = Counter()

    def record(self, kind: str, sentence: str, count: int) -> None:
        """``count`` is what the counter of this kind grew by: messages, or 1 for a change."""
        self._recorded[kind] += count
        self._newest.append(Incident(time.time_ns(), kind, count, sentence))

    def newest(self) -> list[Incident]:
        """The newest first."""
        return list(self._newest.copy())[::-1]

    def recorded(self, kind: str) -> int:
        """The sum of all counts of this kind."""
        return self._recorded[kind]


# Of the process, which has one service.
incidents = Incidents()
