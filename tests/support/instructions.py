"""How many machine instructions the core takes for a message: counted, so that times do not matter.

They are the same in each run, on a busy machine as on an idle one. ``make instructions`` prints the
limits that ``test_instructions.py`` should hold.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from support.paths import ROOT

# A long copy may be one instruction that is counted for each byte, or a loop, as the addresses are:
# always a loop.
TUNABLES = (
    "glibc.cpu.x86_rep_movsb_threshold=1000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000"
)
MARGIN = 1.1  # what another version of Python, orjson or the C library may add


def valgrind() -> str:
    """Where it is; skips the test where it is not."""
    if (found := shutil.which("valgrind")) is None:
        assert not os.environ.get("CI"), "CI lacks valgrind"
        pytest.skip("no valgrind on this machine; Debian has it in the package of that name")
    return found


def counted() -> dict[str, float]:
    """Instructions of each part of ``counted_work.py``, for one message."""
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "callgrind"
        command = [
            *(valgrind(), "--tool=callgrind", "--combine-dumps=yes", "--dump-before=ctermid"),
            *(f"--callgrind-out-file={profile}", sys.executable, "-m", "support.counted_work"),
        ]
        done = subprocess.run(
            command,
            cwd=ROOT / "tests",
            env=os.environ
            | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": TUNABLES},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        # A section of the profile ends at each call of the mark, and one at the end.
        totals = [int(text) for text in re.findall(r"^totals: (\d+)", profile.read_text(), re.M)]
    parts = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(totals) == 2 * (1 + len(parts)) + 1, (totals, done.stderr)
    # Not the start, the first time of everything, what prepares the second time, and the end.
    second = totals[len(parts) + 2 : -1]
    return {name: total / int(times) for (times, name), total in zip(parts, second, strict=True)}


def limit_of(count: float) -> int:
    """With the margin, and rounded."""
    return round(count * MARGIN / 10) * 10


if __name__ == "__main__":
    for name, count in counted().items():
        print(f'    "{name}": {limit_of(count):_},')
