"""Collects what the benchmarks find, and writes it when all are done."""

from __future__ import annotations

from collections.abc import Iterator

import plots
import pytest
from report import RESULTS, Report


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    made = Report()
    yield made
    made.write()
    plots.draw(made, RESULTS)
    print("\n\n" + made.table())
    print("written: table.md, results.json and pictures, in benchmarks/results/")
