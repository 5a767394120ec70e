"""How this process takes memory from the system, and gives back what is free."""

from __future__ import annotations

import ctypes
import os
from functools import cache

# Of mallopt() in glibc's malloc.h.
_M_ARENA_MAX = -8
# Over which the threads are spread.
MOST_ARENAS = 2


def use_few_arenas() -> None:
    """Have all threads take memory from two places; call it before there are any. Who sets
    MALLOC_ARENA_MAX has decided otherwise.

    The C library would give each its own, and none could use what another has freed: of a million
    alarms it took a sixth more memory. Where threads take memory seldom, and much at once, they
    hardly ever wait for each other.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, MOST_ARENAS)


@cache
def _trim() -> ctypes._NamedFuncPointer | None:
    """malloc_trim() of glibc; None with another C library."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def release_memory() -> None:
    """Let the C library return what it keeps for later: after a burst that is most of it. Takes
    some milliseconds, in which whoever allocates waits. Does not hold the GIL."""
    if (trim := _trim()) is not None:
        trim(0)
