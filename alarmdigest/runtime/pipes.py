"""Files of settings and secrets that may be pipes, as with ``--password-file <(command)``.

A pipe can be read only once, and we read such files again for each connection and at SIGHUP: so
what came out of one is kept, as long as the process lives.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import threading
import time
from pathlib import Path

# How long whoever fills a pipe may take: it may ask a vault somewhere.
TIMEOUT_S = 10.0
POLL_S = 0.05

_kept: dict[Path, bytes] = {}
_lock = threading.Lock()


def is_pipe(file: Path) -> bool:
    """Whether it can be read only once: a pipe, a socket, a terminal. Raises OSError."""
    mode = file.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode))


def read(file: Path, limit: int) -> bytes:
    """Up to ``limit`` bytes of it, now or, of a pipe, as they came when it was first read.

    Raises OSError, also when nothing comes out of a pipe in time.
    """
    if not is_pipe(file):
        with file.open("rb") as opened:
            return opened.read(limit)
    with _lock:
        if file not in _kept:
            # At the start they are held back, see entry.py, but nobody waits here against his will.
            before = signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            try:
                _kept[file] = _drain(file, limit)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _kept[file]


def _drain(file: Path, limit: int) -> bytes:
    """All that is written into it until its writers close it."""
    deadline = time.monotonic() + TIMEOUT_S
    data = b""
    fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        while len(data) < limit:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, f"it is a pipe, silent for {TIMEOUT_S:g} s")
            select.select([fd], [], [], left)
            try:
                more = os.read(fd, limit - len(data))
            except BlockingIOError:
                continue
            if not more and data:
                break
            if not more:  # nobody has opened it for writing yet, or wrote nothing
                time.sleep(POLL_S)
            data += more
    finally:
        os.close(fd)
    return data
