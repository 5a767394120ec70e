"""A load of events made beforehand, and a publisher of it in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.raw import frames_of

# Writes a file of PUB frames as fast as the server takes them.
PUBLISHER = """
import sys, time
from pathlib import Path
from support.raw import publish_raw
frames = Path(sys.argv[2]).read_bytes()
print("loaded", flush=True)
sys.stdin.readline()
publish_raw(sys.argv[1], frames, timeout=600)
"""


def events(users: int, alarms: int, second: int = 0, key: str = "UserID") -> bytes:
    """PUB frames: one WARNING for each alarm of each user, users in turn; UUID-like ids."""
    return frames_of(
        (
            "AlarmStatusChanged",
            b'{"AlarmID":"%08x-aaaa-4bbb-8ccc-%012x","%b":"%08x-dddd-4eee-9fff-%012x",'
            b'"Status":"WARNING","ChangedAt":"2021-06-07T20:40:%02d.598765212Z"}'
            % (alarm, user, key.encode(), user, user, second),
        )
        for alarm in range(alarms)
        for user in range(users)
    )


@contextmanager
def publisher(url: str, frames: bytes) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the frames ready and publishes them once ``go`` is called with it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(frames)
        file.flush()
        tests = str(Path(__file__).parent.parent / "tests")
        code = f"import sys\nsys.path.insert(0, {tests!r})\n{PUBLISHER}"
        process = subprocess.Popen(
            [sys.executable, "-c", code, url, file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "loaded\n"
            yield process
        finally:
            process.kill()
            process.wait()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
