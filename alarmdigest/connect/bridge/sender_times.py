"""Times as senders write them, in nanoseconds since 1970; 0 for none that can be used."""

from __future__ import annotations

import re
from typing import Any

from alarmdigest._ext import timestamps

NS = 10**9
# Go's zero time stands for "none", and so does that of 1970.
_ZERO = ("0001-01-01T", "1970-01-01T00:00:00Z")
# ISO 8601 as it is often written: a blank for the T, an offset without its colon, no zone.
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)([.,]\d+)?\s?(Z|[+-]\d\d:?\d\d|)")


def rfc3339(value: Any) -> int:
    """0 for Go's zero time too."""
    if not isinstance(value, str) or value.startswith(_ZERO):
        return 0
    try:
        return max(0, timestamps.to_ns(value))
    except ValueError:
        return _iso(value)


def _iso(value: str) -> int:
    match = _ISO.fullmatch(value.strip())
    if match is None:
        return 0
    date, clock, fraction, zone = match.groups()
    if zone not in ("", "Z") and ":" not in zone:
        zone = f"{zone[:3]}:{zone[3:]}"
    text = f"{date}T{clock}{(fraction or '').replace(',', '.')}{zone or 'Z'}"
    try:
        return max(0, timestamps.to_ns(text))
    except ValueError:
        return 0


def unix(value: Any) -> int:
    """Seconds since 1970, as a number or a text of one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        seconds = float(value)
        whole = int(value) if not isinstance(value, float) and seconds.is_integer() else None
    except (ValueError, OverflowError):
        return 0
    if not 0 < seconds < 2**33:
        return 0
    return whole * NS if whole is not None else round(seconds * NS)


def any_time(value: Any) -> int:
    """As ``rfc3339`` or, for a number, ``unix``; a number beyond seconds is of milliseconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return unix(value) if value < 2**33 else unix(value / 1000)
    return rfc3339(value)
