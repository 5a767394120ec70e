"""The last minutes of a service, as samples of its counters: rates come from two of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

STEP_S = 5.0
KEPT_S = 600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters at one moment of ``time.monotonic()``; ``behind`` is a number of messages."""

    at: float
    events: int
    requests: int
    digests: int
    behind: int


class History:
    """A ring of samples, one every STEP_S seconds, which reaches KEPT_S seconds back.

    Filled by one thread; others may read it at any time.
    """

    def __init__(self) -> None:
        # One more than there are steps: a rate lies between two samples.
        self._samples: deque[Sample] = deque(maxlen=int(KEPT_S / STEP_S) + 1)

    def wants_one(self, now: float) -> bool:
        return not self._samples or now - self._samples[-1].at >= STEP_S

    def add(self, sample: Sample) -> None:
        self._samples.append(sample)

    def samples(self) -> tuple[Sample, ...]:
        """The oldest first."""
        # Copying a deque runs no Python code, so no other thread can change it meanwhile.
        return tuple(self._samples)

    def rates(self, now: Sample) -> dict[str, float]:
        """Per second, from the newest sample that is at least half a step old until ``now``."""
        for sample in reversed(self.samples()):
            if now.at - sample.at >= STEP_S / 2:
                return rates_between(sample, now)
        return dict.fromkeys(RATES, 0.0)


RATES = ("events", "requests", "digests")


def rates_between(before: Sample, after: Sample) -> dict[str, float]:
    """Per second. The two must be from different moments."""
    seconds = after.at - before.at
    return {
        name: round((getattr(after, name) - getattr(before, name)) / seconds, 1) for name in RATES
    }
