"""How long something took, as counts by size. One thread writes it, any other may read it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

# Seconds, from what merging a lone message takes to an outage that somebody has noticed.
BOUNDS_S = (
    *(0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Histogram:
    """Counts of durations in seconds, by bucket, and their sum.

    There is no lock: a reader may see a count whose duration is not yet in the sum, and no more.
    """

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Note that something took so long, or ``times`` things each did."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times


def cumulated(parts: Iterable[Histogram]) -> tuple[list[tuple[str, float]], float]:
    """Several as one, as Prometheus wants it: for each bound how many were at most that, and the
    sum in seconds."""
    counts, sum_s = [0] * (len(BOUNDS_S) + 1), 0.0
    for part in parts:
        counts = [a + b for a, b in zip(counts, part.counts, strict=True)]
        sum_s += part.sum_s
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    return list(zip(bounds, map(float, accumulate(counts)), strict=True)), sum_s
