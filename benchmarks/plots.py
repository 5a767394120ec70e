"""The pictures of a run, as SVG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
from report import Curve, Report

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "alarmdigest"  # the same picture for the same figures

from matplotlib import pyplot, ticker  # noqa: E402 - after the backend is chosen

COLORS = ("#2a6f97", "#a9551a")


def draw(report: Report, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for picture, series in report.series.items():
        path = folder / (re.sub(r"[^a-z0-9]+", "-", picture.lower()) + ".svg")
        if picture.startswith("latency"):
            distributions(picture, series, path)
        else:
            bars(picture, series, path)
    for picture, curves in report.curves.items():
        panels(picture, curves, folder / f"{picture}.svg")


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


def panels(title: str, curves: Sequence[Curve], path: Path) -> None:
    """A row for each measure, a column for each axis."""
    measures = list(dict.fromkeys(curve.measure for curve in curves))
    names = list(dict.fromkeys(curve.axis for curve in curves))
    size = (3.4 * len(names) + 0.6, 2.5 * len(measures))
    figure, grid = pyplot.subplots(
        len(measures), len(names), figsize=size, sharex="col", squeeze=False
    )
    told = []
    for curve in curves:
        axes = grid[measures.index(curve.measure)][names.index(curve.axis)]
        places, values = zip(*curve.points, strict=True)
        axes.plot(
            places, values, marker="o", color=COLORS[len(axes.lines)], label=curve.line or None
        )
        what = f"{curve.measure.replace(chr(10), ' ')} {curve.line}".strip()
        found = ", ".join(f"{value:,.3g} at {place:,.0f}" for place, value in curve.points)
        told.append(f"{what}, over {curve.axis}: {found}")
    for row, measure in zip(grid, measures, strict=True):
        row[0].set_ylabel(measure)
        for axes in row:
            highest = max(max(line.get_ydata()) for line in axes.lines)
            axes.set_xscale("log")
            axes.set_ylim(0, 1.1 * highest)
            if highest >= 10_000:
                axes.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
            axes.grid(alpha=0.3)
            if len(axes.lines) > 1:
                axes.legend(fontsize="small")
    for axes, name in zip(grid[-1], names, strict=True):
        axes.set_xlabel(name)
    save(figure, path, title, "; ".join(told))


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
