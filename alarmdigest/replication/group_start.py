"""What a group's leader messages tell of how its state came about."""

from __future__ import annotations

from typing import NamedTuple


class GroupStart(NamedTuple):
    """``first`` is the sequence of the first input message that the group's state has known, 0 if
    nobody knows. Up to the arrival ``settings_since_ns`` it has gone by other settings; 0: never.
    """

    first: int = 0
    settings_since_ns: int = 0
