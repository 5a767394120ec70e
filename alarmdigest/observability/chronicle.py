"""What was lost or recreated, also where the place that counts it tells no more than a number."""

from __future__ import annotations

import time
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest.observability.losses import json_key, losses
from alarmdigest.observability.stream_changes import stream_changes
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.happenings import happenings

# Whoever counts these knows more and notes it, sometimes after it has asked the server.
NOTED_LATER_S = 15.0
# A loss that goes on makes a line a minute and not one for each look.
PLAIN_INTERVAL_S = 60.0
PLAIN_SENTENCES = {
    "listener": "the workers lagged behind, and the listener dropped what arrived",
    "core_connection": "the connection to the server was lost: what was published until the next "
    "one is not known",
    "rejection_queue": "rejected messages were not published, as the publisher was behind",
    "rejection_publisher": "rejected messages were not taken by the server",
}


class Chronicle:
    """Compares the counters with what was noted. One thread looks; another may read."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._untold_since: dict[str, float] = {}
        self._told_at: dict[str, float] = {}

    def look(self) -> None:
        """Note what has been counted and not been noted. Call it every second or so."""
        now = time.monotonic()
        for kind, count in {**losses(self._service), **stream_changes(self._service)}.items():
            untold = count - happenings.noted(kind)
            if untold <= 0:
                self._untold_since.pop(kind, None)
                continue
            since = self._untold_since.setdefault(kind, now)
            patience_s = 0.0 if kind in PLAIN_SENTENCES else NOTED_LATER_S
            if now - since < patience_s or now < self._told_at.get(kind, 0.0) + PLAIN_INTERVAL_S:
                continue
            self._told_at[kind] = now
            happenings.note(kind, PLAIN_SENTENCES.get(kind, f"{kind} was counted"), untold)

    def newest(self) -> list[dict[str, Any]]:
        """As JSON has it, the newest first."""
        return [
            {
                "at": timestamps.to_text(one.at_ns),
                "kind": json_key(one.kind),
                "count": one.count,
                "what": one.sentence,
            }
            for one in happenings.newest()
        ]
