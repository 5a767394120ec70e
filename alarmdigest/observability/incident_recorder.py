"""Records the incidents of which only a counter tells: losses and changes of streams."""

from __future__ import annotations

import time
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest.observability.losses import json_key, losses
from alarmdigest.observability.stream_changes import stream_changes
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.incidents import incidents

# The code that counts any other incident knows more, and records it itself, sometimes only after it
# has asked the server.
RECORDED_WITHIN_S = 15.0
# A loss that continues is recorded once a minute, not each time we check.
REPEAT_INTERVAL_S = 60.0
# Incidents that are only counted, and what is recorded of them.
COUNTED_ONLY = {
    "listener": "the workers lagged behind, and the listener dropped what arrived",
    "core_connection": "the connection to the server was lost: what was published until the next "
    "one is not known",
    "rejection_queue": "rejected messages were not published, as the publisher was behind",
    "rejection_publisher": "rejected messages were not taken by the server",
}


class IncidentRecorder:
    """Compares the counters with what was recorded. One thread checks; any other may read."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._unrecorded_since: dict[str, float] = {}
        self._recorded_at: dict[str, float] = {}

    def check(self) -> None:
        """Record what was counted and is not recorded yet. Call it about once a second."""
        now = time.monotonic()
        for kind, count in {**losses(self._service), **stream_changes(self._service)}.items():
            unrecorded = count - incidents.recorded(kind)
            if unrecorded <= 0:
                self._unrecorded_since.pop(kind, None)
                continue
            since = self._unrecorded_since.setdefault(kind, now)
            wait_s = 0.0 if kind in COUNTED_ONLY else RECORDED_WITHIN_S
            if now < since + wait_s or now < self._recorded_at.get(kind, 0.0) + REPEAT_INTERVAL_S:
                continue
            self._recorded_at[kind] = now
            incidents.record(kind, COUNTED_ONLY.get(kind, f"{kind} was counted"), unrecorded)

    def newest(self) -> list[dict[str, Any]]:
        """The newest incidents as ``/status.json`` has them, the newest first."""
        return [
            {
                "at": timestamps.to_text(one.at_ns),
                "kind": json_key(one.kind),
                "count": one.count,
                "what": one.sentence,
            }
            for one in incidents.newest()
        ]
