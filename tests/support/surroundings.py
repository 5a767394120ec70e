"""The service in surroundings of a test's choice: its limits, its standard files, its signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from support.nats_server import HOST, free_port
from support.service import CLEAN_ENVIRONMENT
from support.wait import eventually


class Surrounded:
    """``python -m alarmdigest run`` behind a line of shell that makes the surroundings, as in
    ``ulimit -n 20``. Its stderr is a file descriptor of the caller's, else a file that ``log``
    reads. The end of the ``with`` block kills it.
    """

    def __init__(
        self,
        *servers: str,
        shell: str = "",
        stderr: int | None = None,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        program: Sequence[str] = ("-m", "alarmdigest"),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="alarmdigest-")
        self.folder = Path(self._folder.name)
        self.url = f"http://{HOST}:{free_port()}"
        arguments = [*program, "run", "--http", self.url.removeprefix("http://"), "--mode", "core"]
        arguments += ["--data-dir", str(self.folder / "data"), "--workers", "2"]
        for server in servers:
            arguments += ["--server", server]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f'{shell}\nexec "$@"', "bash", sys.executable, *arguments, *options],
                stdin=subprocess.DEVNULL,
                stderr=log if stderr is None else stderr,
                env=CLEAN_ENVIRONMENT | (environment or {}),
            )

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def http(self, path: str) -> tuple[int, str]:
        """Status and body of a GET; the status is 0 while nobody listens."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"it ended:\n{self.log}"
            return self.http("/readyz")[0] == 200

        eventually(ready, timeout=20, what="/readyz")

    def metric(self, name: str) -> float:
        lines = self.http("/metrics")[1].splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))

    def wait(self, timeout: float = 20.0) -> int:
        """The exit code."""
        return self.process.wait(timeout)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Surrounded:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if error is not None:
            sys.stderr.write(self.log)
        self._folder.cleanup()
