"""The life of an alarm, and the order in which the service starts and stops.

An ``AlarmStatusChanged`` that an agent publishes takes these steps:

1. ``listener.py``, thread *listener*: cuts the socket's bytes into frames, decodes every payload
   (orjson), checks it and packs it into the batch of the worker that holds its user
   (``ext/wire/router.pyx``). ``sources/`` has the two ways in which messages arrive: plain
   subscriptions, and a stream. A message that the compiled code does not recognise (another
   spelling of a field's name, for instance) is parsed by ``wire/messages.py``: the slow path. An
   invalid one is rejected: ``rejections.py`` counts it, logs it and queues it for the publisher.
   One batch per worker goes into its queue.
2. ``worker.py``, threads *worker-0…*: merges the batch into the worker's alarm book
   (``ext/state/alarmbook.pyx``), which holds the latest state of every alarm of the worker's users.
   A ``SendAlarmDigest`` takes the same way, and makes the book write the user's due alarms as one
   digest.
3. ``publisher.py``, thread *publisher*: adds each batch of digests and rejected messages to
   ``inflight/window.py``. A confirmer frames and sends it and reads the answers:
   ``inflight/puback.py`` in stream mode, ``inflight/pong.py`` in core mode. In stream mode
   ``ext/wire/inflight.pyx`` numbers the messages, holds back a user's later digests and reads plain
   PubAcks; ``inflight/puback_reader.py`` reads all other answers. ``inflight/pace.py`` says how
   much may be sent after the server has refused something, ``inflight/doubts.py`` when to look up
   what was stored, and ``inflight/stream_lookup.py`` does that.
4. ``checkpointer.py``, thread *checkpointer*: every second the listener sends a barrier, a marker,
   through all queues after the data. When it has come through, and everything before it is
   confirmed, the changes in the books and the position in the stream that they correspond to are
   written to the store in one transaction.

Each thread owns its state and is reached only through its queue. Data flows one way; two things go
the other way, without a queue: ``Worker.merged_bytes``, from which the listener knows the backlog,
and ``Barrier.written``, after which the next barrier may come. When the publisher cannot publish,
the workers wait, and so does a listener that reads a stream; one that has plain subscriptions never
waits (see ``listener.py``).

**Start**, from the end of the pipeline to its beginning, so that every thread is ready before data
reaches it: ``startup.py`` checks the server and creates the streams; the publisher connects; the
books are loaded from the store; then the checkpointer, the workers and the listener start. The
listener continues with the first message after the checkpoint. ``process/runner.py`` logs
``ready``. In stream mode ``stream_watcher.py`` looks at the streams from then on.

**Restart after a crash**: the books and the position come from the store (``restore.py``).
``sources/start_position.py`` decides where reading continues, and ``sources/pull_consumer.py`` asks
the stream for what follows. The same messages make the same digests with the same ids.
``inflight/stream_lookup.py`` begins the replay after its first look at the output streams:
``inflight/stored_ids.py`` reads the ids that they hold after the positions that the checkpoint has
for them, and ``inflight/replay.py`` decides for each message made again whether to send it. The
publisher ends the replay once a barrier at or after ``replay_end``, the end of the input stream at
the start, is confirmed: from there on everything is new.

**Stop**, from the beginning to the end, so that everything that arrived comes out: the listener
stops asking for messages, routes what has arrived, and sends a last barrier through every queue,
and then None (end of queue) to the workers and the publisher. Each worker merges what stands before
it and passes the None on. Once the publisher has a None from every worker and the listener, it
waits for the last confirmation. When they have all ended, ``Service.drain`` stops the checkpointer,
which first writes the last checkpoint.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import mmh3

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest._ext.router import Router
from alarmdigest.nats.auth import Login
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.checkpointer import Checkpointer
from alarmdigest.pipeline.inflight.confirmer import Confirmer
from alarmdigest.pipeline.inflight.pong import PongConfirmer
from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
from alarmdigest.pipeline.listener import Listener
from alarmdigest.pipeline.publisher import Publisher
from alarmdigest.pipeline.rejections import RejectionQueue
from alarmdigest.pipeline.restore import arrival_at_start, load_books
from alarmdigest.pipeline.server_checks import stream_configs_of
from alarmdigest.pipeline.sources.pull_consumer import PullConsumerSource
from alarmdigest.pipeline.sources.source import Source
from alarmdigest.pipeline.sources.subscription import SubscriptionSource
from alarmdigest.pipeline.startup import NotReachable, StartPlan, probe_server
from alarmdigest.pipeline.stream_watcher import StreamWatcher
from alarmdigest.pipeline.worker import Worker
from alarmdigest.runtime.logs import Fields
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.settings import Settings
from alarmdigest.state.position import UNKNOWN_NS
from alarmdigest.store.base import Store
from alarmdigest.wire.buckets import BUCKETS

log = logging.getLogger(__name__)


class Service:
    """The threads of one service on one NATS server (or one of several).

    ``failure`` is set to ``(thread name, exception)`` when a thread has died; whoever runs the
    service must end the process then, because messages for that thread are lost.
    """

    def __init__(
        self, settings: Settings, urls: list[str], store: Store, go_on: Callable[[], bool]
    ) -> None:
        """Opens nothing yet. Raises UrlError. The store must be open, and is not closed here.

        A ``start`` ends as soon as ``go_on()`` is false.
        """
        self.settings = settings
        self.store = store
        self.failure: tuple[str, BaseException] | None = None
        self._urls = urls
        self.draining = False
        self._caller_goes_on = go_on
        self.mode = ""
        self.rejections = RejectionQueue(settings.events_stream)
        self.workers: list[Worker] = []
        self.publisher: Publisher | None = None
        self.checkpointer: Checkpointer | None = None
        self.listener: Listener | None = None
        self.stream_watcher: StreamWatcher | None = None
        self.startup_reconnector = self._reconnector("alarmdigest-startup")
        self.listener_reconnector = self._reconnector("alarmdigest")
        self.publisher_reconnector = self._reconnector("alarmdigest-publisher")
        self._lookup_reconnector = self._reconnector("alarmdigest-lookup", short_lived=True)
        self.service_api_reconnector = self._reconnector("alarmdigest-micro")
        self._watcher_reconnector = self._reconnector("alarmdigest-streams")

    def _go_on(self) -> bool:
        return self._caller_goes_on() and self.failure is None

    def _reconnector(self, name: str, *, short_lived: bool = False) -> Reconnector:
        return Reconnector(
            self._urls,
            name=name,
            short_lived=short_lived,
            login=self.settings.login,
            ping_interval=self.settings.ping_interval.seconds,
            attempt_timeout=self.settings.connect_attempt_timeout.seconds,
        )

    @property
    def reconnectors(self) -> dict[str, Reconnector]:
        """Those that last, by what they are for."""
        return {
            "listener": self.listener_reconnector,
            "publisher": self.publisher_reconnector,
            "service_api": self.service_api_reconnector,
        }

    def change_login(self, login: Login) -> None:
        """Use it from the next connection on."""
        for reconnector in (
            self.startup_reconnector,
            self.listener_reconnector,
            self.publisher_reconnector,
            self._lookup_reconnector,
            self.service_api_reconnector,
            self._watcher_reconnector,
        ):
            reconnector.login = login

    # -- start -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up, or return before that because it is not to go on.

        Raises NotReachable, SettingsError, StoreError.
        """
        deadline = self._deadline()
        start_plan = probe_server(
            self.startup_reconnector,
            self.settings,
            self.store.last,
            go_on=lambda: self._go_on() and time.monotonic() < deadline,
        )
        if not self._go_on():
            return
        if start_plan is None:
            raise not_reachable(self.startup_reconnector)
        self.mode = start_plan.mode
        checkpointer = self.checkpointer = self._make_checkpointer(start_plan)
        self.publisher = self._make_publisher(start_plan, checkpointer)
        self.publisher.start()
        if not self._await(self.publisher.connected, self.publisher, self.publisher_reconnector):
            return
        self.workers = self._make_workers(start_plan, checkpointer)
        self._load_books()
        self.listener = self._make_listener(start_plan)
        for thread in (checkpointer, *self.workers, self.listener):
            thread.start()
        self._await(self.listener.consuming, self.listener, self.listener_reconnector)
        if self.mode == "stream" and self._go_on():
            self.stream_watcher = StreamWatcher(
                self._watcher_reconnector,
                stream_configs_of(self.settings),
                domain=self.settings.js_domain,
                create=not self.settings.no_create_streams,
            )
            self.stream_watcher.start()

    def _make_publisher(self, start_plan: StartPlan, checkpointer: Checkpointer) -> Publisher:
        settings = self.settings
        confirmer: Confirmer
        if start_plan.mode == "stream":
            _events, digests, rejected = stream_configs_of(settings)
            confirmer = PubAckConfirmer(
                settings.digest_subject,
                settings.rejected_subject,
                (digests, rejected),
                self._lookup_reconnector,
                create=not settings.no_create_streams,
                domain=settings.js_domain,
                outputs=self.store.last.outputs if self.store.last is not None else {},
                replays=self.store.last is not None or settings.start != "new",
            )
        else:
            confirmer = PongConfirmer(settings.digest_subject, settings.rejected_subject)
        return Publisher(
            self.publisher_reconnector,
            confirmer,
            producers=settings.workers + 1,
            replay_end=start_plan.replay_end,
            on_published=checkpointer.published,
            on_failure=self._thread_died,
        )

    def _make_checkpointer(self, start_plan: StartPlan) -> Checkpointer:
        return Checkpointer(
            self.store,
            workers=self.settings.workers,
            content_settings=start_plan.content_settings,
            on_failure=self._thread_died,
        )

    def _make_workers(self, start_plan: StartPlan, checkpointer: Checkpointer) -> list[Worker]:
        assert self.publisher is not None
        # Whoever knows the secret could choose ids that make the tables slow.
        secret = os.urandom(16)
        return [
            Worker(
                number,
                AlarmBook(
                    retention_ns=self.settings.retention,
                    split_bytes=start_plan.split_bytes,
                    secret=secret,
                    publish_empty=self.settings.publish_empty,
                    stream=self.settings.events_stream.encode(),
                ),
                self.publisher.queue,
                checkpointer,
                self._thread_died,
            )
            for number in range(self.settings.workers)
        ]

    def _load_books(self) -> None:
        """Raises StoreError."""
        last = self.store.last
        if last is None:
            return
        started = time.monotonic()
        load_books(self.store, [worker.book for worker in self.workers])
        log.info(
            "went on from%s",
            Fields(
                checkpoint=last.number,
                alarms=sum(worker.book.alarm_count for worker in self.workers),
                users=sum(worker.book.user_count for worker in self.workers),
                position=last.position.sequence if last.position is not None else None,
                seconds=time.monotonic() - started,
            ),
        )

    def _make_listener(self, start_plan: StartPlan) -> Listener:
        assert self.publisher is not None
        settings, last = self.settings, self.store.last
        router = Router(
            workers=settings.workers,
            buckets=BUCKETS,
            hash32=mmh3.hash,
            skew_ns=settings.clock_skew,
            parse_leniently=self.rejections.read,
            only_count=self.rejections.only_count,
            event_subject=settings.event_subject.encode(),
            request_subject=settings.request_subject.encode(),
        )
        if last is not None:
            router.arrival_ns = arrival_at_start(last.arrival_ns, settings)
            position = last.position
            router.stepped_back_ns = UNKNOWN_NS if position is None else position.stepped_back_ns
        source: Source
        if start_plan.mode == "stream":
            source = PullConsumerSource(
                stream_configs_of(settings)[0],
                create=not settings.no_create_streams,
                domain=settings.js_domain,
                start=settings.start,
                position=last.position if last is not None else None,
            )
        else:
            source = SubscriptionSource(
                settings.event_subject,
                settings.request_subject,
                settings.drain_timeout.seconds,
                accept_clock_step=settings.accept_clock_step,
            )
        return Listener(
            self.listener_reconnector,
            source,
            router,
            self.rejections,
            self.workers,
            self.publisher.queue,
            backlog_limit=settings.backlog_limit,
            checkpoint_interval_s=settings.checkpoint_interval.seconds,
            on_failure=self._thread_died,
        )

    def _deadline(self) -> float:
        return time.monotonic() + self.settings.connect_timeout.seconds

    def _await(
        self, event: threading.Event, thread: ServiceThread, reconnector: Reconnector
    ) -> bool:
        """Wait for a thread to be connected; what it is busy with takes as long as it takes."""
        deadline = self._deadline()
        while not event.wait(TICK_S):
            if not self._go_on():
                return False
            if time.monotonic() > deadline and not thread.busy_with:
                raise not_reachable(reconnector)
        return True

    # -- watching --------------------------------------------------------------------------------

    @property
    def whereabouts(self) -> Fields:
        """Where it reads and writes, for the log: the streams and how far the input was read, or
        the subjects."""
        if self.mode != "stream" or self.listener is None:
            return Fields(events=self.settings.event_subject, digests=self.settings.digest_subject)
        streams = ",".join(config.name for config in stream_configs_of(self.settings))
        return Fields(streams=streams, position=self.listener.router.sequence)

    @property
    def threads(self) -> list[ServiceThread]:
        """In the order of the data."""
        every = [self.listener, *self.workers, self.publisher, self.checkpointer]
        return [thread for thread in every if thread is not None and thread.ident is not None]

    @property
    def uses_store(self) -> bool:
        """Whether a thread may be reading from or writing to the store."""
        return self.checkpointer is not None and self.checkpointer.is_alive()

    def _thread_died(self, thread: threading.Thread, error: BaseException) -> None:
        self.failure = (thread.name, error)

    # -- stop ------------------------------------------------------------------------------------

    def drain(self) -> bool:
        """Stop in order; everything that has arrived comes out. False if it took too long."""
        self.draining = True
        if self.stream_watcher is not None:
            self.stream_watcher.stop()
        deadline = time.monotonic() + self.settings.drain_timeout.seconds
        publisher = self.publisher
        if publisher is None:
            return self.failure is None
        if self.listener is None:  # it never came to subscribing: there is nothing to bring out
            publisher.give_up()
        else:
            self.listener.stop()
        for thread in self.threads:
            if thread is self.checkpointer:  # all who send to it have ended
                self.checkpointer.stop()
            while thread.is_alive():
                if self.failure is not None or time.monotonic() > deadline:
                    publisher.give_up()
                    return False
                thread.join(TICK_S)
        lost = self.listener is not None and self.listener.drain_was_cut
        return self.failure is None and not lost


def not_reachable(reconnector: Reconnector) -> NotReachable:
    if reconnector.connections:
        return NotReachable(
            f"NATS is there, but does not do what is needed: {reconnector.last_error}"
        )
    return NotReachable(f"cannot connect to NATS: {reconnector.last_error}")
