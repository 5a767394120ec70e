"""Threads take memory from a few places, so that one can use what another has freed."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

# Each thread takes some and keeps it; then the C library tells of its heaps, as XML.
MANY_THREADS = """
import ctypes, sys, threading
from alarmdigest.runtime.memory import use_few_arenas
if sys.argv[1] == "few":
    use_few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
started, go_on = threading.Barrier(9), threading.Event()
def work():
    libc.malloc(100_000)
    started.wait()
    go_on.wait()
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
started.wait()
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
go_on.set()
"""


def heaps(how: str, **environment: str) -> int:
    usual = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", MANY_THREADS, how],
        env=usual | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return len(re.findall("<heap nr=", done.stdout))


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has such heaps")
def test_all_threads_share_two_heaps_unless_told_otherwise() -> None:
    assert heaps("as usual") > 2
    assert heaps("few") == 2
    assert heaps("few", MALLOC_ARENA_MAX="4") == 4
