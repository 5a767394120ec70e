"""Our commands as processes, run to their end."""

from __future__ import annotations

import subprocess
import sys

from support.service import CLEAN_ENVIRONMENT


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m alarmdigest`` with these arguments; fails after a minute."""
    return subprocess.run(
        [sys.executable, "-m", "alarmdigest", *arguments],
        capture_output=True,
        text=True,
        env=CLEAN_ENVIRONMENT | environment,
        timeout=60,
    )
