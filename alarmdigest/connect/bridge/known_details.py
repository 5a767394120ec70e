"""Which details this bridge has written lately, so that what is repeated is not written again."""

from __future__ import annotations

import time

# What was written is written again after this part of its bucket's age, or after this time:
# somebody may have removed it, or another bridge have written something else.
RENEWED_AFTER = 1 / 3
RENEWED_AFTER_S = 3600.0
MAX_KNOWN = 200_000
# So long none are written after their stream has not answered: alarms do not wait for it again.
PAUSE_S = 60.0


class KnownDetails:
    """Belongs to the publisher."""

    def __init__(self, max_age_s: float) -> None:
        self._renew_after_s = min(RENEWED_AFTER_S, max_age_s * RENEWED_AFTER or RENEWED_AFTER_S)
        self._hashes: dict[str, int] = {}
        self._since = time.monotonic()
        self._paused_until = 0.0

    def is_known(self, key: str, details: bytes) -> bool:
        return self._hashes.get(key) == hash(details)

    def wrote(self, key: str, details: bytes) -> None:
        if len(self._hashes) >= MAX_KNOWN:
            self._hashes.clear()
        self._hashes[key] = hash(details)

    def forget_old(self) -> None:
        """Call it now and then."""
        if time.monotonic() - self._since > self._renew_after_s:
            self._since = time.monotonic()
            self._hashes.clear()

    def pause(self) -> None:
        self._paused_until = time.monotonic() + PAUSE_S

    @property
    def paused(self) -> bool:
        return time.monotonic() < self._paused_until
