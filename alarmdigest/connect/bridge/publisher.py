"""The thread that owns the connection to NATS: from alarms to what JetStream has confirmed.

What all waiting requests have brought goes out together, in three steps, each with one write:

1. Read what other bridges have decided since (one request to JetStream, mostly nothing new), and
   give each alarm its ChangedAt.
2. Publish details, and what other bridges must know of the times; wait until they are stored.
3. Publish events and refusals, and wait.

So whoever reads an event finds its details; and a bridge that dies between two steps has lost
nothing, since its senders got no answer and repeat. Details are not worth an alarm: where they
cannot be stored, that is counted, and the alarm goes on.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from alarmdigest.connect.bridge.buckets import BucketConfig, ensure_bucket
from alarmdigest.connect.bridge.memory import Memory, message_of
from alarmdigest.connect.bridge.messages import event_message, expected_stream, refusal_message
from alarmdigest.connect.bridge.publishing import BatchJetStream, Outcome, Outgoing
from alarmdigest.connect.bridge.rules import Rules
from alarmdigest.connect.bridge.times import Entry, Times
from alarmdigest.connect.bridge.work import Work
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, NatsError
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.subjects import covers
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.runtime.service_thread import TICK_S, ByteQueue, ServiceThread
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

MAX_WAITING = 100_000
"""So many messages may wait for NATS; who brings more is told to come again."""
MAX_TOGETHER = 10_000
# How often it is looked whether what is missing on the server is there by now.
LOOK_AGAIN_S = 2.0
SWEEP_EVERY_S = 600.0
# Details that are the same as before are written again after this part of their bucket's age, or
# after this time: somebody may have removed them.
RENEWED_AFTER = 1 / 3
RENEWED_AFTER_S = 3600.0
MAX_KNOWN_DETAILS = 200_000
NO_CONNECTION = "there is no connection to NATS"


class Publisher(ServiceThread):
    """``blocked`` says why nothing can be published now; empty while it can."""

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        reconnector: Reconnector,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__("publisher", on_failure)
        self._settings = settings
        self.reconnector = reconnector
        self.queue: ByteQueue[Work] = ByteQueue(MAX_WAITING)
        self.stopping = threading.Event()
        self.blocked = NO_CONNECTION
        replicas, domain = settings.stream_replicas, settings.js_domain
        time_rules, details = rules.time, rules.details
        self._details = BucketConfig(
            details.bucket, details.max_age, details.max_bytes, replicas, domain
        )
        self._with_details = not details.off
        age_s = details.max_age.seconds * RENEWED_AFTER
        self._renew_after_s = min(RENEWED_AFTER_S, age_s or RENEWED_AFTER_S)
        self._known_details: dict[str, int] = {}
        self._known_since = time.monotonic()
        self.times = Times(ahead_ns=time_rules.ahead, remember_ns=time_rules.remember)
        self._bucket = BucketConfig(time_rules.bucket, time_rules.remember, -1, replicas, domain)
        self._memory = Memory(self._bucket, self.times)
        self._expected = expected_stream(settings.events_stream)
        self._swept_at = time.monotonic()
        self.published = self.duplicates = self.refused = self.failed = 0
        self.details_written = self.details_failed = 0
        self.confirming = Histogram()
        self._trouble = LimitedLog(log, logging.WARNING)
        self._no_details = LimitedLog(log, logging.WARNING)

    # -- for the other threads

    def submit(self, work: Work) -> str:
        """Have it published; or why that cannot be now."""
        if self.blocked:
            return self.blocked
        try:
            self.queue.put_nowait(work)
        except queue.Full:
            return f"over {MAX_WAITING} messages wait for NATS already"
        return ""

    def stop(self) -> None:
        """Finish what is in the queue, and end."""
        self.stopping.set()

    # -- the thread

    def work(self) -> None:
        while not self.stopping.is_set():
            connection = self.reconnector.connect_with_backoff(self._go_on)
            if connection is None:
                break
            try:
                self._use(connection)
            except NatsError as error:
                self._trouble("cannot publish", reason=error)
                self._block(str(error))
            finally:
                connection.close()
        self._fail_waiting("the bridge stops")

    def _go_on(self) -> bool:
        self.sign_of_life()
        self._fail_waiting(NO_CONNECTION)
        return not self.stopping.is_set()

    def _block(self, why: str) -> None:
        self.blocked = why
        self._fail_waiting(why)

    def _fail_waiting(self, why: str) -> None:
        """What was put into the queue just before: its senders come again."""
        while (work := self._next(0)) is not None:
            self.failed += 1
            work.answered(why)

    def _next(self, timeout_s: float) -> Work | None:
        try:
            return self.queue.get(timeout=timeout_s) if timeout_s else self.queue.get_nowait()
        except queue.Empty:
            return None

    def _use(self, connection: Connection) -> None:
        js = BatchJetStream(connection, domain=self._settings.js_domain)
        while not self.stopping.is_set() and (missing := self._prepare(js)):
            self._trouble("not ready", reason=missing)
            self._block(missing)
            self._wait(js, LOOK_AGAIN_S)
        if self.blocked and not self.stopping.is_set():
            self.blocked = ""
            log.info("alerts can be published")
        while not self.stopping.is_set() or not self.queue.empty():
            self.sign_of_life()
            js.see_to_connection()
            if (first := self._next(TICK_S)) is None:
                self._rest()
                continue
            together, count = [first], len(first)
            while count < MAX_TOGETHER and (more := self._next(0)) is not None:
                together.append(more)
                count += len(more)
            try:
                self._publish(js, together)
            except BaseException as error:
                self._trouble("cannot publish", reason=error)
                why = str(error) if isinstance(error, NatsError) else "an internal error"
                for work in together:
                    self._finish(work, why)
                raise

    def _rest(self) -> None:
        now = time.monotonic()
        if now - self._swept_at > SWEEP_EVERY_S:
            self._swept_at = now
            self.times.sweep(time.time_ns())
        if now - self._known_since > self._renew_after_s:
            self._known_since = now
            self._known_details.clear()

    def _wait(self, js: BatchJetStream, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stopping.wait(TICK_S):
            self.sign_of_life()
            js.see_to_connection()

    def _prepare(self, js: BatchJetStream) -> str:
        """What is missing on the server; empty for nothing. Raises NatsError."""
        settings = self._settings
        info = js.stream_info(settings.events_stream)
        if info is None:
            return (
                f"there is no stream {settings.events_stream}: start the service, which makes it, "
                "or name its stream with --events-stream"
            )
        if not any(covers(one, settings.event_subject) for one in info.subjects):
            return f"stream {info.name} does not capture {settings.event_subject}"
        create = not settings.no_create_streams
        try:
            memory = ensure_bucket(js, self._bucket, create=create)
            with self.busy("reading what is remembered of times"):
                self._memory.read(js, memory)
            if self._with_details:
                ensure_bucket(js, self._details, create=create)
        except ConnectionLost:
            raise
        except NatsError as error:
            return str(error)
        return ""

    # -- a batch

    def _publish(self, js: BatchJetStream, works: Sequence[Work]) -> None:
        """Answers all of them. Raises NatsError with some of them unanswered."""
        self._memory.catch_up(js)
        first: list[Outgoing] = []
        entries: list[tuple[int, Entry]] = []
        details: list[tuple[int, str, int]] = []
        decided: list[list[int]] = []
        for place, work in enumerate(works):
            changed_at = []
            for alarm in work.alarms:
                at_ns, entry = self.times.decide(alarm, work.received_ns)
                changed_at.append(at_ns)
                if entry is not None:
                    entries.append((place, entry))
                if alarm.details is not None:
                    hashed = hash(alarm.details)
                    if self._known_details.get(alarm.key) != hashed:
                        details.append((place, alarm.key, hashed))
                        first.append(Outgoing(self._details.subject(alarm.key), alarm.details))
            decided.append(changed_at)
        first += [Outgoing(*message_of(self._bucket, entry)) for _place, entry in entries]
        problems = [""] * len(works)
        outcomes = js.publish_all(first) if first else []
        self._note_details(details, outcomes)
        for (place, _entry), outcome in zip(entries, outcomes[len(details) :], strict=True):
            if outcome.problem:
                problems[place] = problems[place] or outcome.problem
            else:
                self._memory.wrote(outcome.sequence)
        self._publish_events(js, works, decided, problems)

    def _publish_events(
        self,
        js: BatchJetStream,
        works: Sequence[Work],
        decided: Sequence[Sequence[int]],
        problems: list[str],
    ) -> None:
        """Of all works whose times are known to other bridges; and answer all."""
        settings, expected = self._settings, self._expected
        messages: list[Outgoing] = []
        places: list[int] = []
        for place, work in enumerate(works):
            if problems[place]:
                continue
            messages += [
                event_message(settings.event_subject, expected, alarm, at_ns)
                for alarm, at_ns in zip(work.alarms, decided[place], strict=True)
            ]
            messages += [
                refusal_message(settings.rejected_subject, work.sender, one)
                for one in work.refusals
            ]
            places += [place] * (len(messages) - len(places))
        for place, outcome in zip(places, js.publish_all(messages), strict=True):
            self._count(outcome)
            problems[place] = problems[place] or outcome.problem
        for work, problem in zip(works, problems, strict=True):
            self._finish(work, problem)

    def _count(self, outcome: Outcome) -> None:
        if outcome.problem:
            self._trouble("not stored", reason=outcome.problem)
        elif outcome.duplicate:
            self.duplicates += 1
        else:
            self.published += 1

    def _note_details(
        self, written: Sequence[tuple[int, str, int]], outcomes: Sequence[Outcome]
    ) -> None:
        if len(self._known_details) > MAX_KNOWN_DETAILS:
            self._known_details.clear()
        for (_place, key, hashed), outcome in zip(written, outcomes, strict=False):
            if outcome.problem:
                self.details_failed += 1
                self._no_details("details are not stored", reason=outcome.problem)
            else:
                self.details_written += 1
                self._known_details[key] = hashed

    def _finish(self, work: Work, problem: str) -> None:
        if problem:
            self.failed += 1
        self.confirming.observe(time.monotonic() - work.at)
        work.answered(problem)
