"""When a leader publishes its leader message anew: before the stream's limits remove it."""

from __future__ import annotations

import time

from alarmdigest.nats.answers import StreamInfo

CHECK_EVERY_S = 1.0
LONGEST_S = 6 * 3600.0
#: A stream with a limit in bytes keeps at least so many messages, or it is of no use.
FEW_MESSAGES = 4000
UNLIMITED = 1 << 62


class Renewal:
    """Belongs to the publisher's thread."""

    def __init__(self) -> None:
        self._elected_at = time.monotonic()
        self._check_at = 0.0

    def note_elected(self) -> None:
        self._elected_at = time.monotonic()

    def ask_whether_due(self, info: StreamInfo | None, token: int, newest: int) -> bool:
        """Whether a quarter of what the stream keeps has come after our leader message, or a
        quarter of its age (six hours at most) has passed. Only one question in a second is looked
        into. ``token`` and ``newest``, the last message that
        we know of, are sequences; ``info`` is of the last look-up."""
        now = time.monotonic()
        if now < self._check_at or info is None:
            return False
        self._check_at = now + CHECK_EVERY_S
        age_s = int(info.config.get("max_age") or 0) / 1e9
        if age_s and now - self._elected_at > min(age_s / 4, LONGEST_S):
            return True
        # How many messages the stream keeps, as far as its limits tell.
        most_messages = int(info.config.get("max_msgs") or -1)
        kept = most_messages if most_messages > 0 else UNLIMITED
        if int(info.config.get("max_bytes") or -1) > 0:
            kept = min(kept, max(info.messages, FEW_MESSAGES))
        return newest - token > kept // 4
