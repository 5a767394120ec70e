#!/usr/bin/env python3
"""Run as many schedules of the simulation as wanted, or one again, or one with a wrong replica.

python tests/replication/run_simulation.py --schedules 1000000 --seed 0 --jobs 2
python tests/replication/run_simulation.py --seed 639 --schedules 1 --trace
python tests/replication/run_simulation.py --without NoFence
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from replication.schedule import Parts, Schedule, run
from replication.simulated_judge import Violation
from replication.tracing import trace
from replication.wrong_replicas import WRONG

CHUNK = 500


def run_chunk(chunk: tuple[int, int, str]) -> tuple[Counter[str], list[str]]:
    first, count, without = chunk
    totals: Counter[str] = Counter()
    violations = []
    for seed in range(first, first + count):
        try:
            totals.update(figures(run(seed, parts_without(without))))
        except Violation as violation:
            violations.append(str(violation))
    return totals, violations


def figures(schedule: Schedule) -> dict[str, int]:
    judge = schedule.judge
    return {
        "events": schedule.clock.events,
        "digests": len(judge.places),
        "elections": judge.elections,
        "words": judge.words,
        "checkpoints": judge.checkpoints,
        "ended because of their names": judge.names_taken,
    }


def parts_without(safeguard: str) -> Parts:
    return WRONG[safeguard] if safeguard else Parts()


def chunks(arguments: argparse.Namespace) -> Iterator[tuple[int, int, str]]:
    end = arguments.seed + arguments.schedules
    for first in range(arguments.seed, end, CHUNK):
        yield first, min(CHUNK, end - first), arguments.without


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default: 1)")
    parser.add_argument("--without", default="", choices=sorted(WRONG), help="a safeguard left out")
    parser.add_argument("--trace", action="store_true", help="print what happens, for one schedule")
    arguments = parser.parse_args()
    if arguments.trace:
        return trace(arguments.seed, parts_without(arguments.without))
    start = time.monotonic()
    totals: Counter[str] = Counter()
    found = 0
    with Pool(arguments.jobs) as pool:
        for counted, violations in pool.imap(run_chunk, chunks(arguments)):
            totals += counted
            found += len(violations)
            for violation in violations:
                print(violation, flush=True)
    seconds = time.monotonic() - start
    print(f"{arguments.schedules} schedules in {seconds:.0f} s, {found} violations")
    print(", ".join(f"{count} {what}" for what, count in totals.items()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
