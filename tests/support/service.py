"""The real service as a process of its own, watched from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from support.wait import eventually

# What a test may set in the environment must not leak in from the one who runs it.
CLEAN_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("ALARMDIGEST_", "NATS_"))
}


Process = TypeVar("Process", bound="ServiceProcess")


class ServiceProcess:
    """``python -m alarmdigest`` on a server, in a data directory of its own, HTTP on a free port.

    Unless told otherwise it reads plain subscriptions. The data directory stays the same over
    ``kill`` and ``start``. The end of the ``with`` block kills what is left of it. ``program``
    replaces ``-m alarmdigest``, for tests that break something on purpose.
    """

    def __init__(
        self,
        *servers: str,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        mode: str = "core",
        http: str | None = "127.0.0.1:0",
        program: Sequence[str] = ("-m", "alarmdigest"),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="alarmdigest-")
        self.data_dir = Path(self._folder.name) / "data"
        self._arguments = [sys.executable, *program, "run"]
        if http is not None:
            self._arguments += ["--http", http]
        self._arguments += ["--data-dir", str(self.data_dir), "--mode", mode]
        for server in servers:
            self._arguments += ["--server", server]
        self._arguments += options
        self._environment = CLEAN_ENVIRONMENT | (environment or {})
        self._lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def change_options(self, *options: str) -> None:
        """For the next start; those that were given before stay, unless these say otherwise."""
        self._arguments += options

    def start(self: Process, *, ready: bool = True) -> Process:
        """Start it, and unless told otherwise wait for its ``ready`` line."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        self._lines = []
        self._process = subprocess.Popen(
            self._arguments, stderr=subprocess.PIPE, text=True, env=self._environment
        )
        self._reader = threading.Thread(
            target=self._read, args=(self._process, self._lines), daemon=True
        )
        self._reader.start()
        if ready:
            self.wait_for_log(r"\bready\b")
        return self

    def _read(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                lines.append(line)

    @property
    def log(self) -> str:
        """Everything that it has written to stderr since its last start."""
        return "".join(self._lines)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "it was never started"
        return self._process

    def wait_for_log(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """The first match in the log; fails when the process ends without it."""

        def found() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            if ended and self._reader is not None:
                self._reader.join(5.0)
            match = re.search(pattern, self.log)
            assert match or not ended, f"it ended without {pattern!r}:\n{self.log}"
            return match

        match = eventually(found, timeout=timeout, what=f"{pattern!r} in the log:\n{self.log}")
        assert match is not None
        return match

    def http(self, path: str) -> tuple[int, str]:
        """Status and body of a GET."""
        match = self.wait_for_log(r'on(?:=|": ")(http://[^\s"]+)')
        try:
            with urllib.request.urlopen(match[1] + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """One sample of /metrics, by its name with labels, e.g. ``x_total{kind="event"}``."""
        _status, text = self.http("/metrics")
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name} in:\n{text}")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.wait()

    def wait(self, timeout: float = 20.0) -> int:
        """The exit code."""
        code = self.process.wait(timeout)
        if self._reader is not None:
            self._reader.join(5.0)
        return code

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.terminate()
        return self.wait()

    def __enter__(self: Process) -> Process:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            sys.stderr.write(self.log)
        self.end()

    def end(self) -> None:
        """Whatever state it is in; its folder goes, too."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._folder.cleanup()


def send_until_it_ends(service: ServiceProcess, number: signal.Signals) -> None:
    """A second wish: soon after the first it would be taken for the same one."""

    def ended() -> bool:
        service.process.send_signal(number)
        return service.process.poll() is not None

    eventually(ended, interval=0.05, what="the end")


def memory(service: ServiceProcess) -> int:
    """Bytes of its own, without mapped files."""
    text = Path(f"/proc/{service.process.pid}/status").read_text()
    match = re.search(r"RssAnon:\s+(\d+) kB", text)
    assert match
    return int(match[1]) * 1024
