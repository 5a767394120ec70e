"""The replicas' protocol under thousands of random schedules, and without each of its safeguards.

``run_simulation.py`` runs millions, and any one again.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from replication.schedule import Parts, run
from replication.simulated_judge import Violation
from replication.wrong_replicas import WRONG
from support.paths import ROOT
from support.scale import cases

CHUNKS = 4
SCHEDULES = cases(750, 100_000)
# The rarest needs some two thousand.
ENOUGH_TO_FIND_IT = 8000


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_promise_holds_and_everything_is_stored_in_the_end(chunk: int) -> None:
    elections = words = checkpoints = 0
    for seed in range(chunk * SCHEDULES, (chunk + 1) * SCHEDULES):
        judge = run(seed).judge
        elections += judge.elections
        words += judge.words
        checkpoints += judge.checkpoints
    # The schedules do something.
    assert elections > 2 * SCHEDULES
    assert words > 2 * SCHEDULES
    assert checkpoints > 2 * SCHEDULES


@pytest.mark.parametrize("safeguard", WRONG)
def test_a_replica_without_one_safeguard_is_found(safeguard: str) -> None:
    seed = first_violation(WRONG[safeguard])
    print(f"{safeguard}: found by schedule {seed + 1}")


def first_violation(parts: Parts) -> int:
    for seed in range(ENOUGH_TO_FIND_IT):
        try:
            run(seed, parts)
        except Violation:
            return seed
    raise AssertionError(f"not found by {ENOUGH_TO_FIND_IT} schedules")


def test_a_schedule_follows_its_seed() -> None:
    """Else a failure could not be repeated."""
    one, other = run(7), run(7)
    assert one.clock.events == other.clock.events
    assert one.jetstream.output == other.jetstream.output
    assert one.jetstream.output_times == other.jetstream.output_times


def test_a_violation_tells_how_to_run_its_schedule_again() -> None:
    seed = first_violation(WRONG["NoReadThrough"])
    with pytest.raises(Violation, match=f"--seed {seed} --schedules 1") as first:
        run(seed, WRONG["NoReadThrough"])
    script = str(ROOT / "tests/replication/run_simulation.py")
    options = ["--seed", str(seed), "--schedules", "1", "--without", "NoReadThrough"]
    again = subprocess.run(
        [sys.executable, script, *options],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert again.returncode == 1
    assert str(first.value) in again.stdout
    assert "1 schedules" in again.stdout
