"""The pictures of a run, as SVG."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
from report import Report

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "alarmdigest"  # the same picture for the same figures

from matplotlib import pyplot, ticker  # noqa: E402 - after the backend is chosen


def draw(report: Report, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for picture, series in report.series.items():
        path = folder / (re.sub(r"[^a-z0-9]+", "-", picture.lower()) + ".svg")
        if picture.startswith("latency"):
            distributions(picture, series, path)
        else:
            bars(picture, series, path)


def distributions(title: str, series: dict[str, list[float]], path: Path) -> None:
    """Milliseconds over the share of requests that took at most so long."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, values in series.items():
        ordered = sorted(values)
        shares = [(i + 1) / (len(ordered) + 1) for i in range(len(ordered))]
        # The tail is what matters: an axis of 1 / (1 - share).
        axes.plot([1 / (1 - share) for share in shares], [1000 * v for v in ordered], label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([2, 10, 100, 1000], ["p50", "p90", "p99", "p99.9"])
    axes.set_ylabel("ms")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path, title, medians(series, "{:.2f} ms", 1000))


def bars(title: str, series: dict[str, list[float]], path: Path) -> None:
    """One bar for each name: the median, with the range of the rounds."""
    figure, axes = pyplot.subplots(figsize=(7, 0.5 * len(series) + 1.2))
    for place, (name, values) in enumerate(reversed(series.items())):
        ordered = sorted(values)
        middle = ordered[len(ordered) // 2]
        color = "#2a6f97" if name.startswith("alarmdigest") else "#a9a9a9"
        axes.barh(
            place,
            middle,
            color=color,
            xerr=[[middle - ordered[0]], [ordered[-1] - middle]],
            ecolor="#555555",
        )
    axes.set_yticks(range(len(series)), list(reversed(series)))
    axes.set_title(title)
    axes.xaxis.set_major_formatter(ticker.EngFormatter())
    save(figure, path, title, medians(series, "{:,.0f}", 1))


def medians(series: dict[str, list[float]], form: str, factor: float) -> str:
    found = (f"{name}: {form.format(median(values) * factor)}" for name, values in series.items())
    return "Medians. " + "; ".join(found)


def save(figure: Any, path: Path, title: str, told: str) -> None:
    """Write it, with a title and what it tells for those who have it read to them."""
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    text = path.read_text("utf-8")
    head = text.index(">", text.index("<svg")) + 1
    words = f"\n <title>{escape(title)}</title>\n <desc>{escape(told)}</desc>"
    path.write_text(text[:head] + words + text[head:], "utf-8")
