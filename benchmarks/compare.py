"""``make bench-compare``: the ratios of the last run beside those of the baseline.

Ratios only: they were taken inside one run, so they can be held against those of another day or
machine. Ends with 1 when one of them is worse by more than a shared machine explains.
"""

from __future__ import annotations

import sys
from pathlib import Path

from report import RESULTS, SPREAD, Row, read_rows

BASELINE = Path(__file__).parent / "baseline.json"


def change(row: Row, before: Row) -> float:
    """How many times better it is than before; below 1 it is worse."""
    assert row.ratio is not None
    assert before.ratio is not None
    return row.ratio / before.ratio if row.better == "more" else before.ratio / row.ratio


def main() -> int:
    last = RESULTS / "results.json"
    if not last.exists():
        print("there is no run to compare: run `make bench` first", file=sys.stderr)
        return 2
    baseline = {(row.group, row.what, row.reference): row for row in read_rows(BASELINE)}
    worse = 0
    print(f"{'':9} {'now':>8} {'baseline':>8}")
    for row in read_rows(last):
        before = baseline.get((row.group, row.what, row.reference))
        if row.ratio is None:
            continue
        if before is None or before.ratio is None:
            print(f"{'new':9} {row.ratio:8.3g} {'':8}  {row.group}: {row.what}, to {row.reference}")
            continue
        del baseline[row.group, row.what, row.reference]
        better = change(row, before)
        word = "WORSE" if better < 1 - SPREAD else "better" if better > 1 + SPREAD else ""
        worse += word == "WORSE"
        print(
            f"{word:9} {row.ratio:8.3g} {before.ratio:8.3g}  "
            f"{row.group}: {row.what}, to {row.reference}"
        )
    for missing in baseline.values():
        if missing.ratio is None:
            continue
        optional = missing.reference.startswith("C subscriber")  # where libnats is installed
        worse += not optional
        word = "absent" if optional else "MISSING"
        print(f"{word:9} {'':8} {missing.ratio:8.3g}  {missing.group}: {missing.what}")
    print(f"{worse} ratios are missing or worse than the baseline by more than {SPREAD:.0%}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
