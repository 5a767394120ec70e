"""Rejected messages: counted by reason, logged at a limited rate, queued for AlarmRejected."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TypeAlias

from alarmdigest._ext import outgoing
from alarmdigest._ext.router import EVENT, FORGET, REQUEST
from alarmdigest.pipeline.publish_budget import PublishBudget
from alarmdigest.runtime.logs import LimitedLog, Untrusted
from alarmdigest.wire.messages import REASONS, Rejected
from alarmdigest.wire.rejection_headers import rejection_headers

log = logging.getLogger(__name__)

# Core mode only: rejections that may wait while the publisher's queue is full; beyond it they are
# counted and not published. In stream mode the listener waits for the publisher.
MAX_WAITING_BYTES = 16 * 1024 * 1024
# So many are remembered for an operator who asks what was rejected.
LAST_REJECTIONS = 10

StoredAt: TypeAlias = "tuple[int, int, int]"
"""Where a stream has a message: its sequence, its timestamp and its arrival, both in ns."""


class Rejections:
    """Counts, logs and queues what is rejected; ``slow_path.py`` and the router say what that is.

    Belongs to the listener's thread. Counters: ``by_reason``, ``by_kind`` (EVENT, REQUEST, FORGET;
    with the ``last_reason`` of each), and ``unpublished`` for rejections that were counted but had
    to be thrown away because the publisher could not keep up; ``sampled_out`` for those that were
    not published since too many came. ``last`` are the newest rejections that were not sampled out:
    when, in ns since 1970 by our clock, the reason, and the size in bytes.
    """

    def __init__(self, stream: str = "") -> None:
        """``stream`` is the name of the one that messages come from, if they do."""
        self._stream = stream
        self.by_reason = dict.fromkeys(REASONS, 0)
        self.by_kind = {EVENT: 0, REQUEST: 0, FORGET: 0}
        self.last_reason = {EVENT: "", REQUEST: "", FORGET: ""}
        self.unpublished = 0
        self.sampled_out = 0
        self.last: deque[tuple[int, str, int]] = deque(maxlen=LAST_REJECTIONS)
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._rejected = LimitedLog(log, logging.WARNING)
        self._thrown_away = LimitedLog(log, logging.ERROR)
        self._budget = PublishBudget()

    def count_if_sampled_out(self, kind: int, reason: int) -> bool:
        """Of a message that is certainly rejected, for ``REASONS[reason]``: whether it is one too
        many to be published. Then it has been counted, and nobody need read it. Else its permission
        to be published is kept for ``reject``; until then it may be asked again about the same
        message. Only for core mode.
        """
        if self._budget.reserve():
            return False
        self._count(kind, REASONS[reason])
        self.sampled_out += 1
        return True

    def _count(self, kind: int, reason: str) -> None:
        self.by_reason[reason] += 1
        self.by_kind[kind] += 1
        self.last_reason[kind] = reason

    def take(self) -> bytes:
        """All waiting rejections as outgoing records; empties the queue."""
        batch = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return batch

    def log_what_was_left_out(self, *, at_once: bool = False) -> None:
        """Call it now and then, and ``at_once`` in the end."""
        self._rejected.catch_up(at_once=at_once)
        self._thrown_away.catch_up(at_once=at_once)
        self._budget.log_what_was_left_out(at_once=at_once)

    def reject(
        self,
        kind: int,
        rejection: Rejected,
        payload: bytes,
        subject: bytes,
        stored_at: StoredAt | None,
    ) -> None:
        """``stored_at`` is None for a plain subscription's message."""
        self._count(kind, rejection.reason)
        if stored_at is None and not self._budget.take():
            self.sampled_out += 1
            return
        self.last.append((time.time_ns(), rejection.reason, len(payload)))
        self._rejected(
            f"rejected a message ({rejection.reason})",
            detail=rejection.detail,
            subject=Untrusted(subject.decode("utf-8", "replace")),
            bytes=len(payload),
        )
        headers = rejection_headers(rejection.reason, rejection.detail, subject)
        if stored_at is not None:
            # The last line of the record's headers: `InFlight.set_confirmed` counts on that.
            message_id = outgoing.published_id(self._stream.encode(), *stored_at[:2], payload)
            headers += b"Nats-Msg-Id: %b\r\n" % message_id
        record = outgoing.pack_rejection(headers, payload, stored_at[2] if stored_at else 0)
        # One by itself may be larger: a server takes messages of up to 64 MiB. From a stream none
        # is thrown away: there the listener waits for the publisher.
        if (
            stored_at is None
            and self._waiting
            and self._waiting_bytes + len(record) > MAX_WAITING_BYTES
        ):
            self.unpublished += 1
            self._thrown_away("the publisher is behind: rejected messages are not published")
            return
        self._waiting.append(record)
        self._waiting_bytes += len(record)
