"""What a person is told: the alarms of one or more digests, and what else is known of his.

Everything but times and statuses comes from whoever may send alarms: it is text of strangers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WARNING, CRITICAL, CLEARED = "WARNING", "CRITICAL", "CLEARED"


@dataclass(frozen=True, slots=True)
class AlarmLine:
    """One alarm. ``status`` holds since ``since_ns`` (ns since 1970 UTC).

    From ``name`` to ``links`` all stands in the bucket ALARM_DETAILS, and is empty without an entry
    there. ``now`` is the status that the service knows while the message is made, "" if unknown: it
    may have changed since the digest.
    """

    alarm_id: str
    status: str
    since_ns: int
    name: str = ""
    summary: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    now: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """``made_ns`` is when it was put together, in ns since 1970 UTC. ``new`` stands in the digests,
    ``still_active`` is active and was told before, ``cleared`` ended since it was told. Without
    ``state_known`` the last two are empty because the service could not be asked."""

    user_id: str
    made_ns: int
    digest_ids: tuple[str, ...]
    new: tuple[AlarmLine, ...]
    still_active: tuple[AlarmLine, ...]
    cleared: tuple[AlarmLine, ...]
    state_known: bool
