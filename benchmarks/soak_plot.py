"""The picture of a soak: memory, lag and latency over the minutes, with the faults as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib import pyplot
from plots import save


class HasTime(Protocol):
    @property
    def at_s(self) -> float: ...


class Sampled(HasTime, Protocol):
    @property
    def memory(self) -> int | None: ...
    @property
    def lag(self) -> float | None: ...


class Timed(HasTime, Protocol):
    @property
    def seconds(self) -> float: ...


def draw_soak(
    samples: Sequence[Sampled], faults: Sequence[HasTime], found: Sequence[Timed], path: Path
) -> None:
    figure, (memory, lag, latency) = pyplot.subplots(3, 1, figsize=(9, 8), sharex=True)
    held = [(one.at_s / 60, one.memory / 1e6) for one in samples if one.memory is not None]
    memory.plot(*zip(*held, strict=True), color="#2a6f97")
    memory.set_ylabel("memory, MB")
    memory.set_ylim(bottom=0)
    behind = [(one.at_s / 60, one.lag) for one in samples if one.lag is not None]
    lag.plot(*zip(*behind, strict=True), color="#2a6f97")
    lag.set_ylabel("lag, messages")
    lag.set_yscale("symlog", linthresh=1)
    for name, share, color in (("p50", 0.5, "#2a6f97"), ("p99", 0.99, "#a9551a")):
        latency.plot(*by_bin(found, share), label=name, color=color)
    latency.set_ylabel("request to digest, ms")
    latency.set_yscale("log")
    latency.legend()
    latency.set_xlabel("minutes; a grey line is a fault")
    for axes in (memory, lag, latency):
        axes.grid(alpha=0.3)
        for fault in faults:
            axes.axvline(fault.at_s / 60, color="#a9a9a9", linewidth=0.8)
    minutes = samples[-1].at_s / 60
    told = f"Memory, lag and latency over {minutes:.0f} minutes with {len(faults)} faults."
    save(figure, path, "Soak", told)


def by_bin(found: Sequence[Timed], share: float) -> tuple[list[float], list[float]]:
    """Minutes, and that share of the latencies in ms, for each 400th part of the run."""
    last = max(one.at_s for one in found)
    width = max(1.0, last / 400)
    bins: dict[int, list[float]] = {}
    for one in found:
        bins.setdefault(int(one.at_s // width), []).append(one.seconds)
    places = sorted(bins)
    values = []
    for place in places:
        ordered = sorted(bins[place])
        values.append(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))])
    return [place * width / 60 for place in places], values
