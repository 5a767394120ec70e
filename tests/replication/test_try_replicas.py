"""The script with which a newcomer tries three replicas on three servers, as the documents show."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.command import run_command
from support.nats_server import free_port
from support.paths import ROOT
from support.wait import eventually

pytestmark = [pytest.mark.group, pytest.mark.timeout(180)]


def test_it_starts_all_and_ends_what_it_is_told_to(tmp_path: Path) -> None:
    if not (ROOT / ".venv" / "bin" / "nats-server").exists():
        pytest.skip("the script takes what `make build` has made, and this runs on something else")
    port = free_port()
    environment = os.environ | {
        "TRY_REPLICAS": str(tmp_path / "try"),
        "TRY_REPLICAS_PORT": str(port),
    }
    servers = [part for n in range(3) for part in ("--server", f"nats://127.0.0.1:{port + n}")]

    def script(*arguments: str) -> None:
        command = [str(ROOT / "deploy" / "try-replicas.sh"), *arguments]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 0, done.stderr

    def members(count: int) -> dict[str, Any] | None:
        done = run_command("members", *servers, "--json")
        if done.returncode != 0:
            return None
        found: dict[str, Any] = json.loads(done.stdout)
        ready = [one for one in found["members"] if one["state"] == "ready"]
        return found if found["leader"] and len(ready) == count else None

    script("up")
    try:
        found = eventually(lambda: members(3), timeout=60.0, what="three that are ready")
        assert found is not None
        leader = found["leader"]
        assert found["snapshot"] is None or found["snapshot"]["group"] == "mail"
        assert run_command("emulate", *servers, "--shots", "5").returncode == 0
        script("kill", leader)
        script("wipe", leader)
        found = eventually(lambda: members(2), timeout=60.0, what="another leader")
        assert found is not None
        assert found["leader"] != leader
        script("kill", "n3")
        script("start", leader)
        eventually(lambda: members(3), timeout=60.0, what="all three")
        script("start", "n3")
        assert run_command("emulate", *servers, "--shots", "5").returncode == 0
    finally:
        script("down")
    assert not (tmp_path / "try").exists()
