"""How a part of the service reports what it counts, without knowing who reads it."""

from __future__ import annotations

from typing import NamedTuple


class Counter(NamedTuple):
    """One number that only grows: ``alarmdigest_<name>_total`` in /metrics, with its help text."""

    name: str
    value: int
    help: str
