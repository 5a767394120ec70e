"""The slow path: input messages that the compiled router does not recognise.

The router takes the plain shape of a message by itself (and in core mode may only count one that is
certainly rejected, see ``publish_budget.py``). Everything else, another spelling of a field's name
as well as nonsense, is parsed here, and is then routed like any other, or rejected.
"""

from __future__ import annotations

from alarmdigest.pipeline.rejections import Rejections, StoredAt
from alarmdigest.pipeline.trace import Trace
from alarmdigest.runtime.logs import Untrusted
from alarmdigest.wire.messages import Rejected, may_be_about, parse_leniently


class SlowPath:
    """Used by the listener's thread, through the router."""

    def __init__(self, rejections: Rejections, trace: Trace | None = None) -> None:
        self._rejections = rejections
        self._trace = trace

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
            self._tell(rejection, payload, stored_at)
            return None

    def _tell(self, rejection: Rejected, payload: bytes, stored_at: StoredAt | None) -> None:
        """Whoever follows the user that it may be about."""
        user = self._trace.user if self._trace is not None else None
        if self._trace is not None and user is not None and may_be_about(user, payload):
            sequence = stored_at[0] if stored_at is not None else 0
            about = {"reason": rejection.reason, "detail": Untrusted(rejection.detail)}
            self._trace.line("rejected", sequence=sequence, **about)
