"""What was lost or recreated, in words: which stream, which messages, when.

Whoever counts such a thing notes it here as well, so that an operator need not search the log for
it. Any thread may do so.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass

KEPT = 50


@dataclass(frozen=True, slots=True)
class Happening:
    """``kind`` is a place of a loss or a change of a stream, as the metrics call them; ``count``
    how many messages were lost, as far as that is known."""

    at_ns: int
    kind: str
    count: int
    sentence: str


class Happenings:
    """The newest KEPT, and how much of each kind was noted in all."""

    def __init__(self) -> None:
        self._newest: deque[Happening] = deque(maxlen=KEPT)
        self._noted: Counter[str] = Counter()

    def note(self, kind: str, sentence: str, count: int) -> None:
        """``count`` as the counter of this kind grows: messages, or 1 for a change."""
        self._noted[kind] += count
        self._newest.append(Happening(time.time_ns(), kind, count, sentence))

    def newest(self) -> list[Happening]:
        """The newest first."""
        return list(self._newest.copy())[::-1]

    def noted(self, kind: str) -> int:
        return self._noted[kind]


# Of the process, which has one service.
happenings = Happenings()
