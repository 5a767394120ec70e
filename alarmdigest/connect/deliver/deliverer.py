"""The thread that owns the connection to NATS: from digests that are delivered to those that are
acknowledged.

Each round: renew the lease; store what became of messages and acknowledge their digests; let in
what came, and put a message of it into its lanes; tell JetStream what is still under way; ask for
more where there is room.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from alarmdigest.connect.buckets import BucketConfig, ensure_bucket
from alarmdigest.connect.deliver.composer import Composer
from alarmdigest.connect.deliver.consumer import ACK, IN_PROGRESS, NAK, DigestJetStream
from alarmdigest.connect.deliver.dead_letters import ensure_stream
from alarmdigest.connect.deliver.delivered import Delivered
from alarmdigest.connect.deliver.deliveries import Held
from alarmdigest.connect.deliver.dispatch import Dispatch
from alarmdigest.connect.deliver.intake import Intake
from alarmdigest.connect.deliver.lanes import Lanes
from alarmdigest.connect.deliver.pool import Outcome, Pool
from alarmdigest.connect.deliver.routes import Routes
from alarmdigest.connect.deliver.settling import Settling
from alarmdigest.connect.deliver.told import Told
from alarmdigest.connect.lease import Lease
from alarmdigest.connect.process_runner import NO_CONNECTION
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import (
    ConnectionLost,
    JetStreamError,
    JetStreamOff,
    NatsError,
    NoAnswer,
)
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.subjects import covers
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.runtime.queues import ByteQueue
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

LEASE_KEY = "lease.deliver"
PULL_BATCH = 64
# Beyond so much in bodies no more is asked for, whatever their number.
MOST_HELD_BYTES = 256 * 2**20
# Well within the 30 s after which JetStream delivers again.
# A part of what JetStream waits: some of them may get lost.
IN_PROGRESS_EVERY = 1 / 4
LOOK_AGAIN_S = 2.0
EVICT_AT_ONCE = 64
# A lane with more than this part of all places may have to make room, though it does not fail.
CROWDED_PART = 10


class Deliverer(ServiceThread):
    """``blocked`` says why nothing can be delivered now; empty while it can, also while another
    process does (``standby``)."""

    def __init__(
        self,
        settings: Settings,
        routes: Callable[[], Routes],
        reconnector: Reconnector,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__("deliverer", on_failure)
        first = routes()
        self._settings, self._routes = settings, routes
        self._consumer, self._storage = first.consumer, first.storage
        replicas, domain = settings.stream_replicas, settings.js_domain
        storage = first.storage
        self._state_bucket = BucketConfig(
            storage.state_bucket, storage.state_max_age, -1, replicas, domain
        )
        self._delivered_bucket = BucketConfig(
            storage.delivered_bucket, storage.delivered_max_age, -1, replicas, domain
        )
        self.reconnector = reconnector
        self.outcomes: ByteQueue[Outcome] = ByteQueue(0)
        self.held = Held()
        self.lease: Lease | None = None
        self.lanes = Lanes(first.sending, self._may_send)
        told, delivered = Told(self._state_bucket), Delivered(self._delivered_bucket)
        self.composer = Composer(settings, storage.details_bucket, first.messages.most_rows)
        self.intake = Intake(
            settings.digests_stream,
            first.consumer.name,
            self.held,
            first.consumer.ack_wait.seconds,
        )
        self.dispatch = Dispatch(
            routes,
            first.consumer.part_wait.seconds,
            self.composer,
            told,
            delivered,
            self.lanes,
            self.held,
        )
        self.settling = Settling(
            storage, delivered, told, self.held, self.intake, self.lanes.settled
        )
        self._told = told
        self.pool: Pool | None = None
        self.stopping = threading.Event()
        self.blocked = NO_CONNECTION
        self.standby = ""
        self._most_held = first.consumer.most_held
        self._term = 0
        self._me = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(6)}"
        self._renew_at = self._progress_at = 0.0
        self._trouble = LimitedLog(log, logging.WARNING)

    # -- for the other threads

    @property
    def acting(self) -> bool:
        return self.lease is not None and self.lease.held

    def _may_send(self) -> bool:
        return self.acting and not self.stopping.is_set()

    def stop(self) -> None:
        """Send no more, finish what is being sent, give the rest back, and end."""
        self.stopping.set()

    # -- the thread

    def work(self) -> None:
        while not (self.stopping.is_set() and self._finished()):
            connection = self.reconnector.connect_with_backoff(self._go_on)
            if connection is None:
                break
            try:
                self._use(connection)
            except NatsError as error:
                self._trouble("cannot deliver", reason=error)
                self.blocked = str(error)
            finally:
                connection.close()

    def _go_on(self) -> bool:
        self.sign_of_life()
        self._look_at_pool()
        self._take_outcomes()
        if self.blocked == "":
            self.blocked = NO_CONNECTION
        return not (self.stopping.is_set() and self._finished())

    def _finished(self) -> bool:
        return self.lanes.idle and self.outcomes.empty()

    def _use(self, connection: Connection) -> None:
        js = DigestJetStream(connection, domain=self._settings.js_domain)
        connection.watch(self.outcomes.waker.fileno())
        while (problem := self._prepare(js)) and not self.stopping.is_set():
            if self.blocked != problem:
                self._trouble("cannot deliver", reason=problem)
            self.blocked = problem
            self._wait(js, LOOK_AGAIN_S)
        self.blocked = ""
        if self.lease is None:
            duration_s = self._storage.lease.seconds
            self.lease = Lease(js, self._state_bucket, LEASE_KEY, self._me, duration_s)
        self.lease.js = js
        self._renew_at = 0.0
        self.intake.reconnected()
        while not self.stopping.is_set():
            self._round(js)
        self._end(js, connection)

    def _round(self, js: DigestJetStream) -> None:
        self.sign_of_life()
        self._look_at_pool()
        now = time.monotonic()
        self._keep_lease(js, now)
        self._take_outcomes()
        self.settling.store(js)
        self.settling.catch_up_with_the_log()
        if self.acting:
            self._take_arrived(js)
            self._dispatch_one(js, now)
            self._say_in_progress(js, now)
            self._ask_for_more(js)
        else:
            js.arrived.clear()
        self._sleep(js)

    def _sleep(self, js: DigestJetStream) -> None:
        """Until something happens, or is due."""
        next_at = self.dispatch.next_at
        until = time.monotonic() + TICK_S
        if next_at is not None:
            until = min(until, next_at)
        with self.outcomes.sleeping() as nothing_there:
            js.wait(until if nothing_there else 0.0)
        self.outcomes.forget_wake()  # what we ask the server next has polls of its own

    def _wait(self, js: DigestJetStream, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stopping.wait(TICK_S):
            self.sign_of_life()
            self._look_at_pool()
            js.see_to_connection()

    def _look_at_pool(self) -> None:
        if self.pool is not None:
            self.pool.look()

    # -- one of several processes

    def _keep_lease(self, js: DigestJetStream, now: float) -> None:
        lease = self.lease
        if lease is None or now < self._renew_at:
            return
        self._renew_at = now + self._storage.lease.seconds / 4
        if not lease.try_acquire():
            if not self.standby:
                log.info("another process delivers%s", Fields(holder=lease.holder))
            if self._term:
                self._drop_all()
            self._term, self.standby = 0, f"another process delivers: {lease.holder}"
            return
        self.standby = ""
        if lease.terms != self._term:
            self._drop_all()
            self._term = lease.terms
            info = js.stream_info(self._settings.digests_stream)
            self.intake.begin(info.last_seq if info else 0)
            log.info("this process delivers%s", Fields(consumer=self._consumer.name))

    def _drop_all(self) -> None:
        """Somebody else deals with what we held."""
        self.lanes.clear()
        self.dispatch.clear()
        self.settling.forget_all()
        self.held.clear()
        self.intake.forget_all()
        self._told.forget_all()

    # -- in

    def _take_arrived(self, js: DigestJetStream) -> None:
        known: list[bytes] = []
        while js.arrived:
            if (reply := self.intake.take(js.arrived.popleft())) is not None:
                known.append(reply)
        js.answer(ACK, known)
        now = time.monotonic()
        for digest in self.intake.let_in(js):
            self.dispatch.add(digest, now)
        while self.intake.unreadable:
            self.settling.unreadable(*self.intake.unreadable.pop())

    def _dispatch_one(self, js: DigestJetStream, now: float) -> None:
        # It takes as long as the service takes to answer.
        with self.busy("asking what is active"):
            ended = self.dispatch.one(js, now)
        if ended is not None:
            self.settling.ended(*ended)

    def _ask_for_more(self, js: DigestJetStream) -> None:
        room = self._most_held - len(self.held)
        if self.held.size > MOST_HELD_BYTES:
            room = 0
        # One after the other: what was evicted frees its place once its dead letter is stored.
        if room <= 0 and not (self.intake.catching_up or self.settling.waiting):
            for item in self.lanes.evict(EVICT_AT_ONCE, crowded=self._most_held // CROWDED_PART):
                self.settling.outcome(Outcome(item, "dead", "evicted"))
        if js.pulling or (room <= 0 and not self.intake.catching_up):
            return
        js.pull(self._settings.digests_stream, self._consumer.name, max(1, min(PULL_BATCH, room)))

    def _say_in_progress(self, js: DigestJetStream, now: float) -> None:
        if now >= self._progress_at:
            self._progress_at = now + IN_PROGRESS_EVERY * self.intake.ack_wait_s
            js.answer(IN_PROGRESS, [one.reply for one in self.held.digests.values()])

    # -- out

    def _take_outcomes(self) -> None:
        while not self.outcomes.empty():
            self.settling.outcome(self.outcomes.get_nowait())

    def _end(self, js: DigestJetStream, connection: Connection) -> None:
        """What is being sent ends; what is not is given back, so that the next process has it at
        once."""
        while not self._finished():
            self._look_at_pool()
            self.sign_of_life()
            self._keep_lease(js, time.monotonic())
            self._take_outcomes()
            self.settling.store(js)
            self._sleep(js)
        self._take_outcomes()
        self.settling.store(js)
        self.settling.catch_up_with_the_log(at_once=True)
        given_back = [one.reply for one in self.held.digests.values()] if self.acting else []
        self.held.clear()
        if self.lease is not None:
            with suppress(JetStreamError, NoAnswer):  # it ends by itself, and what follows counts
                self.lease.release()
        # Only once our pull is gone, too: it would be delivered to us again.
        js.drop()
        given_back += [one.reply for one in js.arrived]
        last = DigestJetStream(connection, domain=self._settings.js_domain)
        last.answer(NAK, given_back)
        last.drop()

    def _prepare(self, js: DigestJetStream) -> str:
        """What is missing on the server; empty for nothing. Raises ConnectionLost."""
        settings, create = self._settings, not self._settings.no_create_streams
        try:
            info = js.stream_info(settings.digests_stream)
            if info is None:
                return (
                    f"there is no stream {settings.digests_stream}: start the service in stream "
                    "mode, which makes it, or name its stream with --digests-stream"
                )
            js.home = info.domain
            if not any(covers(one, settings.digest_subject) for one in info.subjects):
                return f"stream {info.name} does not capture {settings.digest_subject}"
            for bucket in (self._state_bucket, self._delivered_bucket):
                ensure_bucket(js, bucket, create=create)
            ensure_stream(js, self._storage, replicas=settings.stream_replicas, create=create)
            consumer = js.ensure_consumer(
                settings.digests_stream,
                self._consumer.name,
                subject=settings.digest_subject,
                most_held=self._consumer.most_held,
                ack_wait_s=self._consumer.ack_wait.seconds,
                create=create,
            )
            self.intake.ack_wait_s, self._most_held = consumer
        except JetStreamOff:
            return "the server has no JetStream (for this account), which deliver needs"
        except ConnectionLost:
            raise
        except NatsError as error:
            return str(error)
        return ""
