"""Other services that answer the same requests, as far as they say so, and what comes of it."""

from __future__ import annotations

import time
from typing import Literal, TypeAlias, get_args

#: What happens to a digest: ``twice`` = published by both, with different ids, so that also a
#: stream holds it twice; ``once_in_stream`` = published by both with the same id, so that the
#: digest stream keeps one of them.
Effect: TypeAlias = Literal["twice", "once_in_stream"]
EFFECTS: tuple[Effect, ...] = get_args(Effect)

# They are asked once a minute.
KNOWN_FOR_S = 150.0
# Anybody may say that he is one.
MOST = 1000


def effect_of(our_mode: str, their_mode: str) -> Effect:
    """Of the same stream both make the same digests, with the same ids. What plain subscriptions
    bring has no number, so what is made of it has an id of its own."""
    return "once_in_stream" if our_mode == their_mode == "stream" else "twice"


class OtherInstances:
    """Who was heard lately. Written by one thread, read by others."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, Effect]] = {}

    def saw(self, its_id: str, effect: Effect) -> None:
        now = time.monotonic()
        seen = {who: what for who, what in self._seen.items() if now - what[0] < KNOWN_FOR_S}
        if its_id in seen or len(seen) < MOST:
            seen[its_id] = now, effect
        self._seen = seen

    def count(self, effect: Effect) -> int:
        now = time.monotonic()
        seen = self._seen.values()
        return sum(what == effect and now - at < KNOWN_FOR_S for at, what in seen)
