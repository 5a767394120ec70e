"""The thread that owns the connection to NATS: from alarms to what JetStream has confirmed.

What all waiting requests have brought goes out together (``batch.py``), in three steps:

1. Read what other bridges have decided since (one request to JetStream, mostly nothing new), and
   give each alarm its ChangedAt.
2. Publish details, and what other bridges must know of the times; wait until they are stored.
3. Publish events and rejections, and wait.

So whoever reads an event finds its details; and a bridge that dies between two steps has lost
nothing, since its senders got no answer and repeat. Details are not worth an alarm: where they
cannot be stored, that is counted, and the alarm goes on.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from alarmdigest.connect.bridge.batch import BatchPublisher
from alarmdigest.connect.bridge.rules import Rules
from alarmdigest.connect.bridge.work import Work
from alarmdigest.connect.buckets import ensure_bucket
from alarmdigest.connect.process_runner import NO_CONNECTION
from alarmdigest.connect.publishing import NO_STREAM, BatchJetStream
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, JetStreamOff, NatsError, StreamMissing
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.subjects import covers
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.runtime.queues import ByteQueue
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

MAX_WAITING = 100_000
"""So many messages may wait for NATS; who brings more is told to come again."""
MAX_TOGETHER = 10_000
# How often it is looked whether what is missing on the server is there by now.
LOOK_AGAIN_S = 2.0
SWEEP_EVERY_S = 600.0


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
        self.batches = BatchPublisher(settings, rules)
        self.queue: ByteQueue[Work] = ByteQueue(MAX_WAITING)
        self.stopping = threading.Event()
        self.blocked = NO_CONNECTION
        self._swept_at = time.monotonic()
        self._mend_at = 0.0
        self.failed = 0
        self.confirming = Histogram()
        self._trouble = LimitedLog(log, logging.WARNING)

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
            self._finish(work, why)

    def _next(self, timeout_s: float) -> Work | None:
        try:
            return self.queue.get(timeout=timeout_s) if timeout_s else self.queue.get_nowait()
        except queue.Empty:
            return None

    def _use(self, connection: Connection) -> None:
        js = BatchJetStream(connection, domain=self._settings.js_domain)
        while not self.stopping.is_set() and (missing := self._prepare(js)):
            # Without the word that comes once all is there: scripts wait for it.
            self._trouble("no alerts are taken yet", reason=missing)
            self._block(missing)
            self._wait(js, LOOK_AGAIN_S)
        if self.blocked and not self.stopping.is_set():
            self.blocked = ""
            log.info("alerts can be published")
        while not self.stopping.is_set() or not self.queue.empty():
            self.sign_of_life()
            js.see_to_connection()
            self._forget_old()
            self._mend_details(js)
            if (first := self._next(TICK_S)) is None:
                continue
            together, count = [first], len(first)
            while count < MAX_TOGETHER and (more := self._next(0)) is not None:
                together.append(more)
                count += len(more)
            wanted = [one for one in together if not one.abandoned]
            self.failed += len(together) - len(wanted)
            problems = self._publish(js, wanted)
            for problem in problems:
                if problem.startswith(NO_STREAM):
                    raise StreamMissing(problem)

    def _publish(self, js: BatchJetStream, works: list[Work]) -> list[str]:
        """What went wrong with each. Raises NatsError; all of them are answered then, too."""
        problems = ["an internal error"] * len(works)
        try:
            # It takes as long as the server does.
            with self.busy("publishing"):
                problems = self.batches.publish(js, works)
        except NatsError as error:
            problems = [str(error)] * len(works)
            raise
        finally:
            for work, problem in zip(works, problems, strict=True):
                self._finish(work, problem)
        return problems

    def _forget_old(self) -> None:
        self.batches.known_details.forget_old()
        now = time.monotonic()
        if now - self._swept_at > SWEEP_EVERY_S:
            self._swept_at = now
            self.batches.times.sweep(time.time_ns())

    def _mend_details(self, js: BatchJetStream) -> None:
        batches, now = self.batches, time.monotonic()
        bucket = batches.details_bucket
        if not batches.lacks_details_bucket or bucket is None or now < self._mend_at:
            return
        self._mend_at = now + LOOK_AGAIN_S
        try:
            ensure_bucket(js, bucket, create=not self._settings.no_create_streams)
            batches.lacks_details_bucket = False
        except ConnectionLost:
            raise
        except NatsError as error:
            self._trouble("there is no bucket for details", reason=error)

    def _wait(self, js: BatchJetStream, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stopping.wait(TICK_S):
            self.sign_of_life()
            js.see_to_connection()

    def _prepare(self, js: BatchJetStream) -> str:
        """What is missing on the server; empty for nothing. Raises NatsError."""
        settings, batches = self._settings, self.batches
        try:
            info = js.stream_info(settings.events_stream)
        except JetStreamOff:
            return "the server has no JetStream (for this account), which the bridge needs"
        if info is None:
            return (
                f"there is no stream {settings.events_stream}: start the service, which makes it, "
                "or name its stream with --events-stream"
            )
        js.home = info.domain
        if not any(covers(one, settings.event_subject) for one in info.subjects):
            return f"stream {info.name} does not capture {settings.event_subject}"
        if js.stream_info(settings.rejected_stream) is None:
            return (
                f"there is no stream {settings.rejected_stream}: start the service, which makes "
                "it, or name its stream with --rejected-stream"
            )
        create = not settings.no_create_streams
        try:
            memory = ensure_bucket(js, batches.memory_bucket, create=create)
            with self.busy("reading what is remembered of times"):
                batches.memory.read(js, memory)
            if batches.details_bucket is not None:
                ensure_bucket(js, batches.details_bucket, create=create)
        except ConnectionLost:
            raise
        except NatsError as error:
            return str(error)
        return ""

    def _finish(self, work: Work, problem: str) -> None:
        if problem:
            self.failed += 1
        else:
            self.confirming.observe(time.monotonic() - work.at)
        work.on_published(problem)
