"""Bounds of what a template may do: processor time, the length of each text, the size of numbers.

Templates belong to whoever runs the process. The sandbox keeps a clumsy one, or one that trusts a
stranger's text, from stopping the process or reading its memory; see ``sandbox.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

MAX_CHARS = 2**20
MAX_NUMBER_BITS = 256
MAX_ITEMS = 100_000
# Of the processor, of this thread: a machine that is busy fails no template.
CPU_S = 2.0

_this_thread = threading.local()


class LimitExceeded(Exception):
    """Says which limit. ``too_long`` where fewer alarms might help."""

    def __init__(self, why: str, *, too_long: bool = False) -> None:
        super().__init__(why)
        self.too_long = too_long


def start_clock() -> None:
    """Gives this thread its time for the message that follows."""
    _this_thread.ends = time.thread_time() + CPU_S


def check_time() -> None:
    if time.thread_time() > getattr(_this_thread, "ends", float("inf")):
        raise LimitExceeded(f"it takes more than {CPU_S:g} s")


def check_length(chars: int) -> None:
    if chars > MAX_CHARS:
        raise LimitExceeded(f"a text of more than {MAX_CHARS:,} characters", too_long=True)


def within_limits(value: Any) -> Any:
    """The same, if it is not too long."""
    check_time()
    if isinstance(value, str):
        check_length(len(value))
    return value


def each(values: Iterable[Any]) -> Iterator[Any]:
    """The same, each step of a loop with a look at the clock."""
    for number, value in enumerate(values):
        check_time()
        if number >= MAX_ITEMS:
            raise LimitExceeded(f"a loop of more than {MAX_ITEMS:,} steps")
        yield value


def concat(parts: Iterable[str]) -> str:
    """What a macro or a block has written."""
    listed = list(parts)
    check_length(sum(map(len, listed)))
    return "".join(listed)


def check_operands(operator: str, left: Any, right: Any) -> None:
    """Before ``left operator right`` is computed."""
    check_time()
    if operator == "%" and isinstance(left, str):
        raise LimitExceeded("% makes no texts here: write them with ~")
    if operator == "**" and _is_large(right, 8):
        raise LimitExceeded("** with an exponent over 255")
    if _is_large(left, MAX_NUMBER_BITS) or _is_large(right, MAX_NUMBER_BITS):
        raise LimitExceeded(f"a number of more than {MAX_NUMBER_BITS} bits")
    if operator == "+":
        _check_size(_size(left) + _size(right))
    if operator == "*":
        for sized, number in ((left, right), (right, left)):
            if isinstance(number, int):
                _check_size(_size(sized) * max(number, 0))


def _is_large(value: Any, bits: int) -> bool:
    return isinstance(value, int) and value.bit_length() > bits


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _check_size(size: int) -> None:
    if size > MAX_ITEMS:
        raise LimitExceeded(f"more than {MAX_ITEMS:,} characters or items by + or *")
