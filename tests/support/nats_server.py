"""A real ``nats-server`` for a test: killed, stopped and started again at will."""

import atexit
import itertools
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType

from alarmdigest.nats.embedded.discovery import EmbeddedServerError, choose_server, server_name_at

HOST = "127.0.0.1"

_numbers = itertools.count(1)


def free_port() -> int:
    """A port of the loopback that nobody listens on just now.

    From below the ephemeral range of Linux and macOS, so that it is not some outgoing
    connection's port by the time it is used; at random, so that two test runs rarely meet.
    """
    for _ in range(1000):
        port = random.SystemRandom().randrange(20000, 30000)
        with socket.socket() as sock, suppress(OSError):
            sock.bind((HOST, port))
            return port
    raise AssertionError("no free port between 20000 and 30000")


@cache
def _program() -> Path:
    return choose_server(None).path


class NatsServer:
    """A server on a port of its own, with its store in a temporary directory.

    ``extra`` is configuration text at the top level, ``jetstream_extra`` inside of
    ``jetstream { }``. One that wants TLS first does not ``speaks_first``. ``binary`` is the program
    (``support.server_versions``), else the one that the service would start. The port, once found,
    and the store stay the same over ``kill`` or ``stop`` and ``start``; the end of the ``with``
    block removes everything.
    """

    def __init__(
        self,
        *,
        jetstream: bool = True,
        extra: str = "",
        jetstream_extra: str = "",
        port: int | None = None,
        speaks_first: bool = True,
        binary: Path | None = None,
    ) -> None:
        self._speaks_first = speaks_first
        self._binary = binary
        self.name = f"test-{os.getpid()}-{next(_numbers)}"
        self._port = port
        self._folder = tempfile.TemporaryDirectory(prefix="nats-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        store = f'jetstream {{\nstore_dir: "."\n{jetstream_extra}\n}}\n' if jetstream else ""
        self._config = f'server_name: "{self.name}"\n{store}{extra}\n'

    @property
    def port(self) -> int:
        assert self._port is not None, "the server was never started"
        return self._port

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """Everything that it has logged since the first start."""
        path = Path(self._folder.name, "server.log")
        return path.read_text("utf-8", "replace") if path.exists() else ""

    @property
    def store(self) -> Path:
        """The folder with its streams; to be copied while it does not run."""
        return Path(self._folder.name, "jetstream")

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 10.0) -> None:
        """Start it and wait until it answers. Starts again if someone else was faster on the
        port: on another one, or on the same once the port is fixed."""
        assert not self.alive(), "the server runs already"
        deadline = time.monotonic() + timeout
        port = self._port or free_port()
        # Even the last attempt gets a second, to be able to say what is wrong.
        while why := self._start_on(port, max(deadline, time.monotonic() + 1.0)):
            if "address already in use" not in why or time.monotonic() > deadline:
                raise AssertionError(f"nats-server did not start:\n{why}")
            port = self._port or free_port()
            time.sleep(0.05)
        self._port = port

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after ``timeout`` seconds. The store stays."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
            self._forget()

    def kill(self) -> None:
        """SIGKILL: what a crash of the server is like. The store stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing, until ``resume``."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # until its last thread has stopped

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its directory."""
        self.kill()
        self._folder.cleanup()

    def __enter__(self) -> "NatsServer":
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start_on(self, port: int, deadline: float) -> str | None:
        """None once it answers, else what it logged before it ended or the deadline passed."""
        folder = Path(self._folder.name)
        listen = f'host: "{HOST}"\nport: {port}\n'
        (folder / "server.conf").write_text(listen + self._config, "utf-8")
        before = len(self.log)
        with (folder / "server.log").open("ab") as log:
            # Not in a session of its own: what ends the test run from outside ends it too.
            self._process = subprocess.Popen(
                [self._binary or _program(), "-c", "server.conf"],
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        atexit.register(self.kill)
        while self._process.poll() is None and time.monotonic() < deadline:
            if not self._speaks_first:
                if "Server is ready" in self.log[before:]:
                    return None
                time.sleep(0.01)
                continue
            # By name: on the port may be the server of another test run.
            with suppress(EmbeddedServerError):
                if server_name_at(HOST, port, 1.0) == self.name:
                    return None
            time.sleep(0.01)
        self.kill()
        return self.log[before:] or "(it logged nothing)"

    def _forget(self) -> None:
        self._process = None
        atexit.unregister(self.kill)
