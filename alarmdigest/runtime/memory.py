"""Memory that is free in this process, given back to the system."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def _trim() -> ctypes._NamedFuncPointer | None:
    """malloc_trim() of glibc; None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def release_memory() -> None:
    """Let the C library return what it keeps for later: after a burst that is most of it. Takes
    some milliseconds, in which whoever allocates waits. Does not hold the GIL."""
    if (trim := _trim()) is not None:
        trim(0)
