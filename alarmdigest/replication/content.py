"""Settings that decide what digests hold, as people read them."""

from __future__ import annotations

from alarmdigest.nats.answers import in_short
from alarmdigest.nats.stream_configs import age_text

TIMES = ("clock_skew", "retention")


def content_text(name: str, value: object) -> str:
    """Of a setting of ours, or of one that somebody else has told."""
    if name in TIMES and isinstance(value, int) and 0 < value < 2**63:
        return age_text(value)
    return in_short(value)
