"""Waiting for a condition instead of sleeping and hoping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    condition: Callable[[], T],
    *,
    timeout: float = 10.0,
    what: str = "the condition",
    interval: float = 0.01,
) -> T:
    """Call ``condition`` every ``interval`` seconds until it returns something true; return that.

    Raises AssertionError, naming ``what`` was awaited and the last value seen, after ``timeout``
    seconds. It is called at least once, and what it raises itself comes through.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {value!r}")
        time.sleep(interval)
    return value
