"""Recreated or truncated streams and deleted messages: logged, counted, and noted for the page."""

from __future__ import annotations

import logging

from alarmdigest._ext import timestamps
from alarmdigest._ext.router import Router
from alarmdigest.pipeline.sources.gaps import Gaps
from alarmdigest.pipeline.sources.start_position import ReadFrom
from alarmdigest.runtime.counters import Counter
from alarmdigest.runtime.incidents import incidents
from alarmdigest.state.position import StreamPosition

log = logging.getLogger(__name__)

# What a start may tell about the stream, as the page and the metrics call it.
CHANGES = {"new_stream": "input_recreated", "truncated": "input_truncated"}


class StreamHistory:
    """Counts since the start of the process. ``gaps`` finds what is deleted while it is read."""

    def __init__(self, stream: str) -> None:
        self.gaps = Gaps(stream)
        self._stream = stream
        self._unread_lost = 0
        self._changes = dict.fromkeys(CHANGES.values(), 0)
        self._not_answered_before = 0

    @property
    def changes(self) -> dict[str, int]:
        return self._changes

    @property
    def expired_unread(self) -> int:
        return self._unread_lost + self.gaps.expired

    def losses(self, router: Router) -> dict[str, int]:
        """Messages lost, by the place where they were."""
        return {"stream_deleted": router.deleted, "stream_unread_lost": self._unread_lost}

    def counters(self, router: Router) -> list[Counter]:
        return [
            Counter(
                "stream_deleted",
                router.deleted,
                "Messages that were deleted in the stream before we read them.",
            ),
            Counter(
                "stream_unread_lost",
                self._unread_lost,
                "Unread messages that the stream had lost when we came back to it.",
            ),
            Counter(
                "stream_redelivered",
                router.redelivered,
                "Deliveries of messages that had been routed already; passed over.",
            ),
            Counter(
                "stream_foreign",
                router.foreign,
                "Messages in the stream on subjects that are not ours; passed over.",
            ),
            Counter(
                "stream_expired_unread",
                self.gaps.expired,
                "Of the deleted ones, those that lay before the stream's first message when it was "
                "asked: a limit or a purge removed them.",
            ),
            Counter(
                "stream_requests_not_answered_again",
                router.not_answered,
                "Requests that were read for a second time, since the stream was put back or is "
                "another one.",
            ),
        ]

    def started(
        self, start: ReadFrom, known: StreamPosition | None, position: StreamPosition
    ) -> None:
        """Reading goes on after ``position``; ``known`` is the one that was known before."""
        alarming = start.deleted_unread > 0 or start.kind in CHANGES
        log.log(logging.ERROR if alarming else logging.INFO, "%s", start.sentence)
        if start.last_known is not None:
            sequence, time_ns = start.last_known
            log.warning(
                "%s: what was read before is read again, up to message %d at most; requests in it "
                "that are not newer than %s are not answered again",
                self._stream,
                sequence,
                timestamps.to_text(time_ns),
            )
        lost, sentence = start.deleted_unread, start.sentence
        if start.kind == "continues" and known is not None:
            # The stream may have deleted more until the consumer was there.
            lost = max(lost, position.sequence - known.sequence)
            sentence = (
                f"{self._stream}: messages {known.sequence + 1} to {known.sequence + lost} were "
                "deleted before we read them"
            )
        if lost:
            self._unread_lost += lost
            incidents.record("stream_unread_lost", sentence, lost)
        if change := CHANGES.get(start.kind):
            self._changes[change] += 1
            incidents.record(change, start.sentence, 1)

    def reread_ended(self, router: Router) -> None:
        """What may have been read before has been read again."""
        count = router.not_answered - self._not_answered_before
        self._not_answered_before = router.not_answered
        log.log(
            logging.ERROR if count else logging.INFO,
            "%s: what may have been read before ends with message %d; %d requests among it were "
            "not answered again: what is due comes with the next request of each user",
            self._stream,
            router.sequence,
            count,
        )
