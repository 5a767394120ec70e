"""How often a target may be used."""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Rate(NamedTuple):
    """At most so many in any ``seconds``."""

    most: int
    seconds: float


def rate(text: str) -> Rate:
    """``30/m``, ``1/s``, ``500/h``. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,5})\s*/\s*([smh])", text.strip())
    if match is None or int(match[1]) < 1:
        raise ValueError(f"{text!r} is no rate; write it like 1/s, 30/m or 500/h")
    return Rate(int(match[1]), _UNITS[match[2]])


class RateLimit:
    """Remembers when the last ones were. Times in seconds of one clock."""

    def __init__(self, allowed: Rate) -> None:
        self.allowed = allowed
        self._times: deque[float] = deque(maxlen=allowed.most)

    def wait_s(self, now: float) -> float:
        """How long the next one has to wait; 0 where it may go."""
        if len(self._times) < self.allowed.most:
            return 0.0
        return max(0.0, self._times[0] + self.allowed.seconds - now)

    def take(self, now: float) -> None:
        self._times.append(now)
