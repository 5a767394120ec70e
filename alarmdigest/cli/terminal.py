"""Writing for a person at a terminal, whatever the text holds and wherever it goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any


def write_line(text: str) -> None:
    """One line on stdout, at once; what its encoding does not know is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    safe = text.encode(encoding, "backslashreplace").decode(encoding)
    print(safe, flush=True)


def write_json(value: Any) -> None:
    """One value on one line, in ASCII."""
    print(json.dumps(value), flush=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as they need; numbers to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    numeric = [
        bool(rows) and all(row[column].replace(",", "").isdigit() for row in rows)
        for column in range(len(heads))
    ]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]


def size_text(count: int) -> str:
    """Bytes for a person: ``512 B``, ``3.9 KiB``."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def duration_text(seconds: float) -> str:
    """Seconds for a person: ``12 ms``, ``3.4 s``, ``7 min``, ``5 h``, ``3 days``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    for limit, unit, name in ((7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds // 86_400:.0f} days"
