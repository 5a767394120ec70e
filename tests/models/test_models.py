"""Searches of the model of the replicas' protocol: no error as built, one without any safeguard.

Run by ``make test-models``. README.md, beside this file, tells of larger searches.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MODEL = Path(__file__).with_name("replicas.pml")
MEMORY_MB = 1500

# Times are far above what they take, because the other core may be busy.
pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

# How the checker names the assertion that failed.
STORED_TWICE = "(place[what]==0)"
FALSE_WORD = "((((2<<through)-2)& ~(kept))==0)"
MISLEADING_WORD = "((place[i]==0)||(place[i]>after))"
FALSE_CHECKPOINT = "((((2<<cut)-2)& ~(kept))==0)"
MISSING_AT_THE_END = "(kept==((2<<1)-2))"

# Each without one safeguard, in the smallest instance that finds the error.
WITHOUT = {
    "NO_FENCE": ("REQUESTS=1", STORED_TWICE),
    "NO_READ_THROUGH": ("REQUESTS=1", STORED_TWICE),
    "READ_LAGGING": ("REQUESTS=1", STORED_TWICE),
    "NO_SELF_FENCE": ("REQUESTS=1 ELECTIONS=1 LOSSES=1", STORED_TWICE),
    "OLD_TOKEN_WILL_DO": ("REQUESTS=1 ELECTIONS=1 LOSSES=2 LINKS=3", STORED_TWICE),
    "ADOPT": ("REQUESTS=1", STORED_TWICE),
    "RENEW_PLAINLY": ("REQUESTS=1 RENEWALS=1", STORED_TWICE),
    "EARLY_CHECKPOINT": ("REQUESTS=1 ELECTIONS=1 KILLS=1", FALSE_CHECKPOINT),
    "EARLY_WORD": ("REQUESTS=1 ELECTIONS=1", FALSE_WORD),
    "AFTER_IS_THE_END": ("REQUESTS=2", MISLEADING_WORD),
    "AFTER_IS_TAKEN_LATE": ("REQUESTS=2", MISLEADING_WORD),
    "DROP_ON_STEP_DOWN": ("REQUESTS=1 ELECTIONS=2 RESIGNATIONS=1", FALSE_WORD),
    "FOLLOWER_TRUSTS_ITS_OWN": ("REQUESTS=1 ELECTIONS=1", FALSE_WORD),
}
# What becomes of a wrong word when nobody looks at the words themselves.
CONSEQUENCES = {
    "AFTER_IS_TAKEN_LATE": ("REQUESTS=2 ELECTIONS=3", STORED_TWICE),
    "EARLY_WORD": ("REQUESTS=1 ELECTIONS=1 KILLS=1 SETTLE", MISSING_AT_THE_END),
    "DROP_ON_STEP_DOWN": ("REQUESTS=1 ELECTIONS=2 RESIGNATIONS=1 SETTLE", MISSING_AT_THE_END),
    "FOLLOWER_TRUSTS_ITS_OWN": ("REQUESTS=1 ELECTIONS=1 SETTLE", MISSING_AT_THE_END),
}


@dataclass(frozen=True, slots=True)
class Search:
    """``error`` is the assertion that failed, "" for none; ``unreached`` are the numbers of
    the steps of a replica that no execution has taken."""

    error: str
    exhaustive: bool
    states: int
    unreached: list[str]


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"
    return done.stdout


def search(bounds: str, folder: Path, *, optimise: bool = False) -> Search:
    """All executions of the model within these bounds, or those up to the first error."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            assert os.environ.get("CI") != "true", f"CI lacks {tool}"
            pytest.skip(f"no {tool} on this machine; Debian has it in the package of that name")
    # Losses are the one thing that happens by itself unless it is told not to.
    options = [f"-D{bound}" for bound in bounds.split()]
    if "LOSSES" not in bounds:
        options.append("-DLOSSES=0")
    run("spin", *options, "-a", str(MODEL), folder=folder)
    checker = ["-w", "-DSAFETY", "-DNOFAIR", f"-DMEMLIM={MEMORY_MB}", "-o", "pan", "pan.c"]
    # Small searches are shorter than the optimiser.
    run("gcc", "-O1" if optimise else "-O0", *checker, folder=folder)
    told = run("./pan", "-m100000", folder=folder)
    error = re.search(r"^pan:1: assertion violated (.*) \(at depth \d+\)$", told, re.MULTILINE)
    errors, states = re.search(r"errors: (\d+)", told), re.search(r"(\d+) states, stored", told)
    assert errors is not None, told
    assert states is not None, told
    assert (errors[1] == "0") == (error is None), told
    complete = not re.search("Search not completed|max search depth too small", told)
    _, _, rest = told.partition("unreached in proctype Replica\n")
    unreached = re.findall(r"state (\d+), .*", rest.partition("unreached in")[0])
    return Search(error[1] if error else "", complete, int(states[1]), unreached)


@pytest.mark.parametrize(
    "bounds",
    [
        "REQUESTS=1 ELECTIONS=2 LOSSES=1 KILLS=1 SETTLE LOSS",
        "REQUESTS=1 ELECTIONS=2 LOSSES=1 RENEWALS=1 RESIGNATIONS=1 SETTLE",
        "REQUESTS=2 ELECTIONS=2 LOSSES=1",
    ],
)
def test_as_built_there_is_no_error(bounds: str, tmp_path: Path) -> None:
    found = search(bounds, tmp_path, optimise=True)
    assert found.error == ""
    assert found.exhaustive
    assert found.states > 500_000


def test_every_step_of_a_replica_is_taken(tmp_path: Path) -> None:
    """A mistake in the model could keep it from ever doing what is to be checked."""
    common = "REQUESTS=1 RENEWALS=1 SETTLE"
    killed, unanswered = "ELECTIONS=2 KILLS=1 RESIGNATIONS=1", "ELECTIONS=1 LOSSES=2"
    left = [search(f"{common} {more}", tmp_path).unreached for more in (killed, unanswered)]
    assert all(left), "each alone has steps that it cannot take; else they are not seen"
    assert set(left[0]) & set(left[1]) == set()


@pytest.mark.parametrize("safeguard", WITHOUT)
def test_without_a_safeguard_there_is_an_error(safeguard: str, tmp_path: Path) -> None:
    bounds, error = WITHOUT[safeguard]
    assert search(f"{bounds} {safeguard}", tmp_path).error == error


@pytest.mark.parametrize("safeguard", CONSEQUENCES)
def test_a_wrong_word_has_consequences(safeguard: str, tmp_path: Path) -> None:
    bounds, error = CONSEQUENCES[safeguard]
    found = search(f"{bounds} {safeguard} ONLY_THE_OUTPUT", tmp_path)
    assert found.error == error


def test_every_safeguard_of_the_model_is_tried() -> None:
    """A flag that the model knows and nobody sets would pass for a safeguard that was tested."""
    text = MODEL.read_text("utf-8")
    known = set(re.findall(r"#ifdef (\w+)|defined\((\w+)\)", text))
    flags = {one or other for one, other in known}
    ways = {"LOSS", "SETTLE", "SILENT", "SNAPSHOT"}
    assert flags - ways == set(WITHOUT)
