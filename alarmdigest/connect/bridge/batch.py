"""What many requests have brought, published together; see ``publisher.py`` for the three steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from alarmdigest.connect.bridge.known_details import KnownDetails
from alarmdigest.connect.bridge.memory import Memory, message_of
from alarmdigest.connect.bridge.messages import event_message, rejection_message
from alarmdigest.connect.bridge.rules import Rules
from alarmdigest.connect.bridge.times import Entry, Times
from alarmdigest.connect.bridge.work import Work
from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.publishing import (
    NO_STREAM,
    UNANSWERED,
    BatchJetStream,
    Outgoing,
)
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)


class BatchPublisher:
    """Belongs to the publisher's thread; its counters may be read by others.

    ``lacks_details_bucket``: it was there, and is not any more.
    """

    def __init__(self, settings: Settings, rules: Rules) -> None:
        self._settings = settings
        replicas, domain = settings.stream_replicas, settings.js_domain
        self.details_bucket: BucketConfig | None = None
        if not rules.details.off:
            self.details_bucket = BucketConfig(
                rules.details.bucket,
                rules.details.max_age,
                rules.details.max_bytes,
                replicas,
                domain,
            )
        self.memory_bucket = BucketConfig(
            rules.time.bucket, rules.time.remember, -1, replicas, domain
        )
        self.times = Times(ahead_ns=rules.time.ahead, remember_ns=rules.time.remember)
        self.memory = Memory(self.memory_bucket, self.times)
        self.lacks_details_bucket = False
        self.known_details = KnownDetails(rules.details.max_age.seconds)
        self.published = self.duplicates = 0
        self.details_written = self.details_failed = 0
        self._not_stored = LimitedLog(log, logging.WARNING)
        self._no_details = LimitedLog(log, logging.WARNING)

    def publish(self, js: BatchJetStream, works: Sequence[Work]) -> list[str]:
        """What went wrong with each; empty where all of it is stored. Raises NatsError.

        After either, what is remembered of times is what the bucket holds.
        """
        try:
            self.memory.catch_up(js)
            decided, entries = self._decide(works)
            self._publish_details(js, works)
            if problem := self._publish_entries(js, entries):
                # Times of any of them may rest on what other bridges cannot know.
                self.memory.forget()
                return [problem] * len(works)
            return self._publish_events(js, works, decided)
        except BaseException:
            self.memory.forget()
            raise

    def _decide(self, works: Sequence[Work]) -> tuple[list[list[int]], list[Entry]]:
        """The ChangedAt of each work's alarms, and what other bridges must know before."""
        decided: list[list[int]] = []
        entries: list[Entry] = []
        for work in works:
            times: list[int] = []
            # Those of a request without times of their own keep their order.
            for received_ns, alarm in enumerate(work.alarms, work.received_ns):
                at_ns, entry = self.times.decide(alarm, received_ns)
                times.append(at_ns)
                if entry is not None:
                    entries.append(entry)
            decided.append(times)
        return decided, entries

    def _publish_details(self, js: BatchJetStream, works: Sequence[Work]) -> None:
        """Whatever becomes of them is counted, and holds up no alarm for long."""
        bucket, known = self.details_bucket, self.known_details
        if bucket is None:
            return
        written = [
            (alarm.key, alarm.details)
            for work in works
            for alarm in work.alarms
            if alarm.details is not None and not known.is_known(alarm.key, alarm.details)
        ]
        if not written:
            return
        if known.paused:
            self.details_failed += len(written)
            return
        outcomes = js.publish_all(
            [Outgoing(bucket.stream, bucket.subject(key), one) for key, one in written]
        )
        for (key, details), outcome in zip(written, outcomes, strict=True):
            if outcome.problem:
                self.details_failed += 1
                self._no_details("details are not stored", reason=outcome.problem)
            else:
                self.details_written += 1
                known.wrote(key, details)
        if UNANSWERED in outcomes:
            known.pause()
        self.lacks_details_bucket = any(NO_STREAM in one.problem for one in outcomes)

    def _publish_entries(self, js: BatchJetStream, entries: Sequence[Entry]) -> str:
        """What went wrong; empty when other bridges can know all of them."""
        if not entries:
            return ""
        bucket = self.memory_bucket
        outcomes = js.publish_all([message_of(bucket, entry) for entry in entries])
        for outcome in outcomes:
            if outcome.problem:
                self._not_stored("not stored", reason=outcome.problem)
                return outcome.problem
            self.memory.wrote(outcome.sequence)
        return ""

    def _publish_events(
        self, js: BatchJetStream, works: Sequence[Work], decided: Sequence[Sequence[int]]
    ) -> list[str]:
        settings = self._settings
        messages: list[Outgoing] = []
        places: list[int] = []
        for place, work in enumerate(works):
            messages += [
                event_message(settings.events_stream, settings.event_subject, alarm, at_ns)
                for alarm, at_ns in zip(work.alarms, decided[place], strict=True)
            ]
            messages += [
                rejection_message(
                    settings.rejected_stream,
                    settings.rejected_subject,
                    work.sender,
                    one,
                    js.max_payload,
                )
                for one in work.rejections
            ]
            places += [place] * (len(messages) - len(places))
        problems = [""] * len(works)
        for place, outcome in zip(places, js.publish_all(messages), strict=True):
            if outcome.problem:
                self._not_stored("not stored", reason=outcome.problem)
                problems[place] = outcome.problem
            elif outcome.duplicate:
                self.duplicates += 1
            else:
                self.published += 1
        return problems
