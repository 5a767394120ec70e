"""The table of a benchmark run: one row for each claim, as text, JSON and pictures."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SPREAD = 0.20  # what two runs of the same code on a shared machine may differ by


@dataclass(slots=True)
class Row:
    """A figure and, where it is compared with something, the ratio that counts.

    ``target`` is written as ``>= 0.9`` or ``<= 2``, about the ratio (about the value where there
    is none). ``compare`` tells whether two runs can be compared by this row.
    """

    group: str
    what: str
    value: float
    unit: str
    ratio: float | None = None
    reference: str = ""
    target: str = ""
    better: str = "more"

    @property
    def judged(self) -> float:
        return self.value if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        match = re.fullmatch(r"(>=|<=) ([\d.]+)", self.target)
        if match is None:
            return None
        limit = float(match[2])
        return self.judged >= limit if match[1] == ">=" else self.judged <= limit


@dataclass(slots=True)
class Curve:
    """A line of a picture with several panels: what is measured, over what."""

    measure: str
    axis: str
    line: str
    points: list[tuple[float, float]]


@dataclass
class Report:
    """Filled by the benchmarks of one run. ``series`` hold distributions, for the pictures, and
    ``curves`` what is drawn over an axis."""

    rows: list[Row] = field(default_factory=list)
    series: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    curves: dict[str, list[Curve]] = field(default_factory=dict)

    def row(
        self,
        group: str,
        what: str,
        value: float,
        unit: str,
        *,
        ratio: float | None = None,
        reference: str = "",
        target: str = "",
        better: str = "more",
    ) -> None:
        made = Row(group, what, value, unit, ratio, reference, target, better)
        self.rows.append(made)
        print("\n" + "  ".join(cells(made)), end="")

    def distribution(self, picture: str, name: str, values: list[float]) -> None:
        self.series.setdefault(picture, {})[name] = values

    def curve(
        self, picture: str, measure: str, axis: str, line: str, points: list[tuple[float, float]]
    ) -> None:
        self.curves.setdefault(picture, []).append(Curve(measure, axis, line, points))

    def table(self) -> str:
        head = ("group", "what", "figure", "ratio", "to", "target", "")
        lines = [head, *(cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [
            "| "
            + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            + " |"
            for line in lines
        ]
        text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(text) + "\n"

    def write(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "table.md").write_text(self.table(), "utf-8")
        document = {
            "machine": machine(),
            "rows": [asdict(row) for row in self.rows],
            "series": self.series,
            "curves": {name: list(map(asdict, curves)) for name, curves in self.curves.items()},
        }
        (RESULTS / "results.json").write_text(json.dumps(document, indent=1), "utf-8")


def read_rows(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_text("utf-8"))["rows"]]


def cells(row: Row) -> tuple[str, ...]:
    met = {True: "met", False: "MISSED", None: ""}[row.met]
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    figure = f"{row.value:,.0f}" if row.value >= 1000 else f"{row.value:.3g}"
    return row.group, row.what, f"{figure} {row.unit}", ratio, row.reference, row.target, met


def machine() -> dict[str, str | int]:
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (match := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        model = match[1]
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count() or 0,
        "system": platform.platform(),
        "python": platform.python_version(),
    }
