"""The life of an alarm, and the order in which the service starts and stops.

An ``AlarmStatusChanged`` that an agent publishes takes these steps:

1. ``listener.py``, thread *listener*: cuts the socket's bytes into frames, decodes every payload
   (orjson), checks it and packs it into the batch of the worker that holds its user
   (``ext/wire/router.pyx``). ``sources/`` has the two ways in which messages arrive: plain
   subscriptions, and a stream. A message that the compiled code does not recognise (another
   spelling of a field's name, for instance) is handed to ``slow_path.py``, which has
   ``wire/messages.py`` parse it. An invalid one is rejected (``rejections.py``): counted, logged
   and queued for the publisher; in core mode, of a flood of them, 99 of 100 are only counted, many
   of those by the compiled code without the slow path. One batch per worker goes into its queue.
2. ``worker.py``, threads *worker-0…*: merges the batch into the worker's alarm book
   (``ext/state/alarmbook.pyx``), which holds the latest state of every alarm of the worker's users.
   A ``SendAlarmDigest`` takes the same way, and makes the book write the user's due alarms as one
   digest; so does a ``ForgetUser``, and ends all memory of the user.
3. ``publisher.py``, thread *publisher*: gives each batch of digests and rejected messages to a
   confirmer, which numbers it, later sends it and reads the answers: ``inflight/puback.py`` in
   stream mode, ``inflight/pong.py`` in core mode. ``inflight/window.py`` keeps whole batches, and
   barriers between them, in order. In stream mode ``ext/wire/inflight.pyx`` keeps each message of
   them: it holds back a user's later digests and reads plain PubAcks;
   ``inflight/puback_reader.py`` reads all other answers. ``inflight/pace.py`` says how much may be
   sent after the server has refused something, ``inflight/missing_acks.py`` when to look up what
   was stored, and ``inflight/stream_lookup.py`` does that.
4. ``checkpointer.py``, thread *checkpointer*: writes the state to the store, together with the
   position in the stream that it corresponds to. What belongs to a position is found with a
   *barrier*, a marker that passes through all queues after the data (``barrier.py``):

   - the listener sends it (``barrier_schedule.py`` says when: once per ``--checkpoint-interval`` if
     something has arrived, else every ten seconds, or per interval if that is longer, and never
     before the last checkpoint is done);
   - a worker that reaches it gives the rows that have changed to the checkpointer, and passes it to
     the publisher;
   - the publisher waits until it has come from all of them (``inflight/arriving.py``; at the first
     it notes how far the output streams are, ``StreamLookup.output_positions``) and until
     everything before it is confirmed (``inflight/window.py``), and tells the checkpointer;
   - rows, position and output positions are written in one step, all of it or nothing.

Each thread owns its state, and data reaches it only through its queue (the listener's: through its
socket). Three things go the other way, without a queue: ``Worker.merged_bytes``, from which the
listener knows the backlog; ``Barrier.done`` and ``.stored``; and ``Store.wants_all_rows``, whether
the next checkpoint is to be of all rows. In a group the publisher also shares an
``Exchange`` with the thread that talks to the others (``replication/exchange.py``), which looks how
far the listener has come, too. When the publisher cannot publish, the workers wait, and so does a
listener that reads a stream; one that has plain subscriptions never waits (``listener.py``).

**Start**, from the end of the pipeline to its beginning, so that all are ready before data comes:
``startup.py`` checks the server, creates the streams and claims the store (LMDB's is
ours since ``process/runner.py`` opened it); the publisher
connects and looks how far the output streams are (not yet which ids they hold); the books are
loaded from the store; then the checkpointer, the workers and the listener start. The
listener continues with the first message after the checkpoint. ``process/runner.py`` logs
``ready``. In stream mode ``stream_watcher.py`` looks at the streams from
shortly before that on. Where snapshots are kept, an empty store is filled from one first
(``snapshot_restore.py``), and ``snapshot_maker.py`` makes others later.

**Restart after a crash**: ``process/runner.py`` opens the store; the position is that of its last
checkpoint (``Store.last``), and ``loading.py`` loads the books. ``thread_factory.py`` gives the
source its position and the confirmer its output positions; ``router_factory.py`` sets the arrival
clock. ``sources/start_position.py``
decides where reading continues, and ``sources/pull_consumer.py`` asks the stream for what follows.
The same messages make the same digests with the same ids. Those that are stored already are not
sent again: after its first look at the output streams ``inflight/stream_lookup.py`` begins to
compare, ``inflight/stored_ids.py`` reads the ids that they hold after the positions that the
checkpoint has for them, and ``inflight/already_stored.py`` decides for each message made again. Of
a digest that the stream has deleted since, the *mark* tells, the header Alarmdigest-Stored-Through
of later ones: all digests of requests up to it were stored. Comparing ends once a barrier at or
after ``replay_end``, the end of the input stream at the start, is confirmed: from there on
everything is new.

**In a group** (``--group``) every instance reads, merges and writes checkpoints like this, and one,
the leader, publishes. A replica does not look into the output streams at its restart: it waits for
the leader's word, and reads the digest stream only when it is elected. ``inflight/fenced.py``
replaces the PubAck confirmer: what a follower has in flight is confirmed by the leader's word
(``inflight/group_lookup.py``, after ``inflight/comparison.py`` has compared what both have made),
which comes in beats (``replication/group.py``). Who leads is
decided by ``replication/leadership.py``; ``docs/replicas.md`` explains it.

**Stop**, from the beginning to the end, so that everything that was read comes out: the listener
stops asking for messages, routes what is still on its way (of plain subscriptions only: what a
stream still sends is dropped, and read by the next start), and sends a last barrier through every
queue, and then None (end of queue) to the workers and the publisher. Each worker merges what stands
before it and passes the None on. Once the publisher has a None from every worker and the listener,
it waits for the last confirmation. When they have all ended, ``Service.drain`` stops the
checkpointer, which first writes the last checkpoint.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.checkpointer import Checkpointer
from alarmdigest.pipeline.due_watch import DueWatch
from alarmdigest.pipeline.listener import Listener
from alarmdigest.pipeline.loading import load_books
from alarmdigest.pipeline.publisher import Publisher
from alarmdigest.pipeline.reconnectors import Reconnectors
from alarmdigest.pipeline.rejections import Rejections
from alarmdigest.pipeline.replica import Replica
from alarmdigest.pipeline.server_checks import stream_configs_of
from alarmdigest.pipeline.snapshot_maker import SnapshotMaker
from alarmdigest.pipeline.snapshot_restore import restore_snapshot
from alarmdigest.pipeline.startup import not_reachable, prepare_server
from alarmdigest.pipeline.stream_watcher import StreamWatcher
from alarmdigest.pipeline.thread_factory import ThreadFactory
from alarmdigest.pipeline.trace import Trace
from alarmdigest.pipeline.worker import Worker
from alarmdigest.replication.group import Group
from alarmdigest.runtime.logs import Fields
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.settings import Settings
from alarmdigest.store import Checkpoint, Store, open_store

log = logging.getLogger(__name__)

TRACED_FROM_START_S = 3600.0


class Service:
    """The threads of one service on one NATS server (or one of several).

    ``failure`` is set to ``(thread name, exception)`` when a thread has died; whoever runs the
    service must end the process then, because messages for that thread are lost.
    """

    def __init__(
        self, settings: Settings, urls: list[str], store: Store, go_on: Callable[[], bool]
    ) -> None:
        """Opens nothing yet. Raises UrlError. The store must be open. The caller closes
        ``self.store`` in the end: it may be another one by then, filled from a snapshot.

        A ``start`` ends as soon as ``go_on()`` is false.
        """
        self.settings = settings
        self.store = store
        self.failure: tuple[str, BaseException] | None = None
        self.draining = False
        self._caller_goes_on = go_on
        self.mode = ""
        self.rejections = Rejections(settings.events_stream)
        self.trace = Trace()
        self.due_watch = DueWatch()
        if settings.trace:
            self.trace.begin(settings.trace.encode(errors="surrogateescape"), TRACED_FROM_START_S)
        self.workers: list[Worker] = []
        self.publisher: Publisher | None = None
        self.checkpointer: Checkpointer | None = None
        self.listener: Listener | None = None
        self.stream_watcher: StreamWatcher | None = None
        self.reconnectors = Reconnectors.of(settings, urls)
        self.replica: Replica | None = None
        self.snapshots: SnapshotMaker | None = None
        self.restoring_snapshot = False
        self._start_until = 0.0

    def _go_on(self) -> bool:
        return self._caller_goes_on() and self.failure is None

    # -- start -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up, or return before that because it is not to go on.

        Raises NotReachable, SettingsError, StoreError.
        """
        self._start_until = self._deadline()
        start_plan = prepare_server(
            self.reconnectors.startup,
            self.settings,
            self.store,
            fill_store=self._fill_store if self.settings.keeps_snapshots else None,
            go_on=lambda: self._go_on() and time.monotonic() < self._start_until,
        )
        if not self._go_on():
            return
        if start_plan is None:
            raise not_reachable(self.reconnectors.startup)
        self.mode = start_plan.mode
        if self.settings.group:
            self.replica = Replica(self.settings, self.store.last, start_plan)
            self.store.share(self.replica.term)
        make = ThreadFactory(
            self.settings,
            self.store,
            start_plan,
            self.trace,
            self.due_watch,
            self._thread_died,
        )
        checkpointer = self.checkpointer = make.checkpointer()
        self.publisher = make.publisher(
            make.confirmer(self.reconnectors.lookup)
            if self.replica is None
            else self.replica.make_confirmer(
                stream_configs_of(self.settings), self.reconnectors.lookup
            ),
            self.reconnectors.publisher,
            checkpointer,
        )
        self.publisher.start()
        if not self._await(self.publisher.ready, self.publisher, self.reconnectors.publisher):
            return
        self.workers = make.workers(self.publisher, checkpointer)
        load_books(self.store, [worker.book for worker in self.workers])
        self.listener = make.listener(
            self.reconnectors.listener, self.rejections, self.workers, self.publisher
        )
        for thread in (checkpointer, *self.workers, self.listener):
            thread.start()
        if self.replica is not None:
            self._join_group(self.replica, self.listener)
        self._await(self.listener.consuming, self.listener, self.reconnectors.listener)
        if self.mode == "stream" and self._go_on():
            self.stream_watcher = StreamWatcher(
                self.reconnectors.watcher,
                stream_configs_of(self.settings),
                domain=self.settings.js_domain,
                create=not self.settings.no_create_streams,
            )
            self.stream_watcher.start()
            if self.settings.keeps_snapshots:
                self.snapshots = SnapshotMaker(
                    self.reconnectors.snapshots,
                    self.settings,
                    self.store,
                    start_plan.content_settings,
                    self.replica,
                )
                self.snapshots.start()

    def _fill_store(self, content: dict[str, int]) -> Checkpoint | None:
        """Fill the empty store from a snapshot. Raises NatsError, StoreError, NotToGoOn."""
        if self.store.last is None:
            self.restoring_snapshot = True
            self.store.close()  # LMDB opens a database once only in a process
            try:
                restore_snapshot(self.reconnectors.snapshots, self.settings, content, self._go_on)
            finally:
                self.store = open_store(self.settings)
                self.store.claim()
                self._start_until = self._deadline()  # it took as long as it took
                self.restoring_snapshot = False
        return self.store.last

    def _join_group(self, replica: Replica, listener: Listener) -> None:
        """From now on others know of us, and we may be elected."""
        group = replica.make_group(
            self.reconnectors.group,
            position=lambda: listener.router.sequence,
            ready=lambda: listener.consuming.is_set() and listener.near_end,
            missed=lambda: replica.note_missed(listener.source.expired_unread),
            on_failure=self._thread_died,
        )
        group.start()
        self._await(group.heard, group, self.reconnectors.group)

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
        group = self.replica.group if self.replica is not None else None
        every = [self.listener, *self.workers, self.publisher, self.checkpointer, group]
        return [thread for thread in every if thread is not None and thread.ident is not None]

    @property
    def uses_store(self) -> bool:
        """Whether a thread may be reading from or writing to the store."""
        return self.checkpointer is not None and self.checkpointer.is_alive()

    def _thread_died(self, thread: threading.Thread, error: BaseException) -> None:
        self.failure = (thread.name, error)

    # -- stop ------------------------------------------------------------------------------------

    def drain(self) -> bool:
        """Stop in order; everything that has arrived comes out. False if it took too long, a thread
        has died, or, in core mode, the connection broke before the last of it had come."""
        self.draining = True
        for watching in (self.stream_watcher, self.snapshots):
            if watching is not None:
                watching.stop()
        leads = self.replica is None or self.replica.leads
        deadline = time.monotonic() + self.settings.drain_timeout.seconds
        publisher = self.publisher
        if publisher is None:
            return self.failure is None
        if self.listener is None:  # it never came to subscribing: there is nothing to bring out
            publisher.stop_unconfirmed()
        else:
            if self.replica is not None:
                self.replica.resign()
            self.listener.stop()
        for thread in self.threads:
            if thread is self.checkpointer:  # all who send to it have ended
                self.checkpointer.stop()
            elif isinstance(thread, Group):
                thread.stop()
            while thread.is_alive():
                if self.failure is not None or time.monotonic() > deadline:
                    publisher.stop_unconfirmed()
                    return False
                if self.replica is not None and self.listener and not self.replica.leads:
                    # What is not confirmed is another replica's business.
                    self.listener.skip_last_checkpoint()
                    publisher.leave_to_others()
                thread.join(TICK_S)
        if self.snapshots is not None and leads:
            self.snapshots.make_last(lambda: self.failure is None and time.monotonic() < deadline)
        cut = self.listener is not None and self.listener.drain_was_cut
        return self.failure is None and not cut
