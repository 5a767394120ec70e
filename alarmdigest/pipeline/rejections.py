"""Rejected messages: counted by reason, logged at a limited rate, sent to AlarmRejected."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TypeAlias

from alarmdigest._ext import outgoing
from alarmdigest._ext.router import EVENT, FORGET, REQUEST
from alarmdigest.runtime.logs import LimitedLog, Untrusted
from alarmdigest.wire.messages import REASONS, Rejected, parse_leniently

log = logging.getLogger(__name__)

MAX_DETAIL_CHARS = 200
# Core mode only: rejections that may wait for the publisher; beyond it they are counted and not
# published. In stream mode the listener waits for the publisher.
MAX_WAITING_BYTES = 16 * 1024 * 1024
# Core mode only: publishing one costs as much as ten good messages, and the server cuts off who is
# slow. So beyond so many at once, and so many a second, one in a hundred is published: enough to
# see what a broken publisher sends.
PUBLISHED_AT_ONCE = 5_000
PUBLISHED_A_SECOND = 1_000
SAMPLED_ONE_IN = 100
# So many are remembered for an operator who asks what was rejected.
LAST_REJECTIONS = 10

InputPosition: TypeAlias = "tuple[int, int, int]"
"""Of a stream's message: its sequence, its timestamp and its arrival, both in ns."""

_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"??")


class Rejections:
    """Has ``wire/messages.py`` parse what the compiled router does not take; counts, logs and
    queues what is rejected.

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
        self._too_many = LimitedLog(log, logging.WARNING)
        self._allowance = float(PUBLISHED_AT_ONCE)
        self._allowance_at = time.monotonic()
        self._beyond_rate = 0
        # ``only_count`` has found that the next rejection may be published.
        self._next_may_be_published = False

    def only_count(self, kind: int, reason: int) -> bool:
        """Count a message that is rejected for ``REASONS[reason]`` and be done with it, if it is
        one too many; else it has to be read. Only for core mode."""
        if self._next_may_be_published or self._may_publish():
            self._next_may_be_published = True
            return False
        name = REASONS[reason]
        self.by_reason[name] += 1
        self.by_kind[kind] += 1
        self.last_reason[kind] = name
        self.sampled_out += 1
        return True

    def _may_publish(self) -> bool:
        if self._allowance < 1.0:
            now = time.monotonic()
            self._allowance += (now - self._allowance_at) * PUBLISHED_A_SECOND
            self._allowance = min(self._allowance, PUBLISHED_AT_ONCE)
            self._allowance_at = now
        if self._allowance >= 1.0:
            self._allowance -= 1.0
            return True
        self._beyond_rate += 1
        if self._beyond_rate % SAMPLED_ONE_IN:
            return False
        self._too_many(
            "too many messages are rejected: all are counted, not all published",
            published_one_in=SAMPLED_ONE_IN,
        )
        return True

    def read_or_reject(
        self,
        kind: int,
        payload: bytes,
        subject: bytes,
        position: InputPosition | None = None,
    ) -> tuple[bytes, bytes, int, int] | None:
        """``(user, alarm, status, time_ns)``, or None for a message that has now been rejected.

        ``position`` is that of a stream's message.
        """
        try:
            return parse_leniently(kind, payload)
        except Rejected as rejection:
            self.by_kind[kind] += 1
            self.last_reason[kind] = rejection.reason
            self._reject(rejection, payload, subject, position)
            return None

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
        self._too_many.catch_up(at_once=at_once)

    def _reject(
        self,
        rejection: Rejected,
        payload: bytes,
        subject: bytes,
        position: InputPosition | None,
    ) -> None:
        self.by_reason[rejection.reason] += 1
        if position is None and not self._next_may_be_published and not self._may_publish():
            self.sampled_out += 1
            return
        self._next_may_be_published = False
        self.last.append((time.time_ns(), rejection.reason, len(payload)))
        self._rejected(
            f"rejected a message ({rejection.reason})",
            detail=rejection.detail,
            subject=Untrusted(subject.decode("utf-8", "replace")),
            bytes=len(payload),
        )
        headers = rejection_headers(rejection, subject)
        if position is not None:
            # The id is the last line: whoever looks for it counts from the end.
            message_id = outgoing.published_id(self._stream.encode(), *position[:2], payload)
            headers += b"Nats-Msg-Id: %b\r\n" % message_id
        record = outgoing.pack_rejection(headers, payload, position[2] if position else 0)
        # One by itself may be larger: a server takes messages of up to 64 MiB. From a stream none
        # is thrown away: there the listener waits for the publisher.
        if (
            position is None
            and self._waiting
            and self._waiting_bytes + len(record) > MAX_WAITING_BYTES
        ):
            self.unpublished += 1
            self._thrown_away("the publisher is behind: rejected messages are not published")
            return
        self._waiting.append(record)
        self._waiting_bytes += len(record)


def rejection_headers(rejection: Rejected, subject: bytes) -> bytes:
    """The headers of an AlarmRejected message, as ``Key: value`` lines.

    Neither value can hold a CR or LF: the detail is escaped to printable ASCII, and in the subject
    they are replaced, though the protocol knows no such subject.
    """
    detail = rejection.detail.encode("unicode_escape").decode("ascii")[:MAX_DETAIL_CHARS]
    return (
        f"Alarmdigest-Reason: {rejection.reason}\r\nAlarmdigest-Detail: {detail}\r\n".encode()
        + b"Alarmdigest-Subject: "
        + subject.translate(_NO_LINE_ENDS)
        + b"\r\n"
    )
