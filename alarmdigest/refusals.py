"""Refused messages: counted by reason, logged at a limited rate, sent to AlarmRejected."""

from __future__ import annotations

import logging

from alarmdigest._ext import outgoing
from alarmdigest.logs import LimitedLog
from alarmdigest.messages import REASONS, Refused, read_odd

log = logging.getLogger(__name__)

MAX_DETAIL_CHARS = 200
# Refusals that may wait for the publisher; beyond it they are counted and not published.
MAX_WAITING_BYTES = 16 * 1024 * 1024

_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"??")


class RefusalDesk:
    """Reads what the compiled router does not take, and keeps what nobody takes for publishing.

    Belongs to the client thread. Counters: ``by_reason``, and ``unpublished`` for refusals that
    were counted but had to be thrown away because the publisher could not keep up.
    """

    def __init__(self) -> None:
        self.by_reason = dict.fromkeys(REASONS, 0)
        self.unpublished = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._refused = LimitedLog(log, logging.WARNING)
        self._thrown_away = LimitedLog(log, logging.ERROR)

    def read(
        self, kind: int, payload: bytes, subject: bytes
    ) -> tuple[bytes, bytes, int, int] | None:
        """``(user, alarm, status, time_ns)``, or None for a message that has now been refused."""
        try:
            return read_odd(kind, payload)
        except Refused as refusal:
            self._refuse(refusal, payload, subject)
            return None

    def take(self) -> bytes:
        """All refusals that wait, as outgoing records; empties the desk."""
        batch = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return batch

    def put_back(self, batch: bytes) -> None:
        """Undo take(): the publisher had no room."""
        self._waiting.insert(0, batch)
        self._waiting_bytes += len(batch)

    def _refuse(self, refusal: Refused, payload: bytes, subject: bytes) -> None:
        self.by_reason[refusal.reason] += 1
        self._refused(
            f"refused a message ({refusal.reason})",
            detail=refusal.detail,
            subject=ascii(subject.decode("utf-8", "replace")),
            bytes=len(payload),
        )
        record = outgoing.pack_refusal(headers_of(refusal, subject), payload)
        # One by itself may be larger: a server takes messages of up to 64 MiB.
        if self._waiting and self._waiting_bytes + len(record) > MAX_WAITING_BYTES:
            self.unpublished += 1
            self._thrown_away("the publisher is behind: refused messages are not published")
            return
        self._waiting.append(record)
        self._waiting_bytes += len(record)


def headers_of(refusal: Refused, subject: bytes) -> bytes:
    """The headers of an AlarmRejected message, as ``Key: value`` lines.

    Neither value can hold a CR or LF: the detail is escaped to printable ASCII, and in the subject
    they are replaced, though the protocol knows no such subject.
    """
    detail = refusal.detail.encode("unicode_escape").decode("ascii")[:MAX_DETAIL_CHARS]
    return (
        f"Alarmdigest-Reason: {refusal.reason}\r\nAlarmdigest-Detail: {detail}\r\n".encode()
        + b"Alarmdigest-Subject: "
        + subject.translate(_NO_LINE_ENDS)
        + b"\r\n"
    )
