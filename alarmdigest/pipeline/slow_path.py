"""The slow path: input messages that the compiled router does not recognise.

It takes the plain shape of a message by itself. Everything else, another spelling of a field's name
as well as nonsense, is parsed here, and is then routed like any other, or rejected.
"""

from __future__ import annotations

from alarmdigest.pipeline.rejections import Rejections, StoredAt
from alarmdigest.wire.messages import Rejected, parse_leniently


class SlowPath:
    """Used by the listener's thread, through the router."""

    def __init__(self, rejections: Rejections) -> None:
        self._rejections = rejections

    def read_or_reject(
        self, kind: int, payload: bytes, subject: bytes, stored_at: StoredAt | None = None
    ) -> tuple[bytes, bytes, int, int] | None:
        """``(user, alarm, status, time_ns)``, or None for a message that has now been rejected.

        ``stored_at`` is that of a stream's message.
        """
        try:
            return parse_leniently(kind, payload)
        except Rejected as rejection:
            self._rejections.reject(kind, rejection, payload, subject, stored_at)
            return None
