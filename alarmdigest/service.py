"""The life of an alarm, and the order in which the service starts and stops.

An ``AlarmStatusChanged`` that an agent publishes goes through these hands:

1. ``listener.py``, thread *nats-client*: the socket's bytes are cut into frames, every payload is
   decoded (orjson), checked and packed into the batch of the worker that holds its user
   (``ext/events.pyx``; what is not of the plain shape is read by ``messages.py``, and what nobody
   accepts goes to the desk in ``refusals.py``). One batch per worker goes into its queue.
2. ``worker.py``, threads *worker-0…*: the batch is merged into the worker's alarm book
   (``ext/alarmbook.pyx``), which holds the latest state of every alarm of the worker's users.
   A ``SendAlarmDigest`` goes the same way behind it, and makes the book write the user's due
   alarms as one digest.
3. ``publisher.py``, thread *publisher*: digests and refusals are framed and sent, and kept until
   the server has confirmed them.

Each thread owns its state and is reached through its queue only. Data goes one way; when the
publisher cannot publish, the workers wait; the listener never waits for them (see there).

**Start**, downstream first, so that nothing arrives where nobody listens: the publisher connects
(and tells how large a message may be); the workers; the listener subscribes; ``ready``.

**Stop**, upstream first, so that everything that arrived comes out: the listener unsubscribes,
routes what has arrived, and sends None through every worker's queue; each worker merges what
stands before it and passes the None on; the publisher, having one from everybody, waits for the
last confirmation.
"""

from __future__ import annotations

import logging
import os
import threading
import time

import mmh3

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest._ext.events import Router
from alarmdigest.listener import Listener
from alarmdigest.nats.link import Link
from alarmdigest.publisher import Publisher
from alarmdigest.refusals import RefusalDesk
from alarmdigest.routing import BUCKETS
from alarmdigest.settings import HEADER_ROOM_BYTES, SPLIT_AUTO, Settings, SettingsError
from alarmdigest.threads import TICK_S, ServiceThread
from alarmdigest.worker import Worker

log = logging.getLogger(__name__)


class NotReachable(RuntimeError):
    """No NATS server in time."""


class Service:
    """The threads of one service on one NATS server (or one of several).

    ``failure`` is set to ``(thread name, exception)`` when a thread has died; whoever runs the
    service must end the process then, because messages for that thread are lost.
    """

    def __init__(self, settings: Settings, urls: list[str], wake: threading.Event) -> None:
        """Opens nothing yet. Raises UrlError.

        ``wake`` is set when a thread has died; a caller that sets it, too, ends a ``start``.
        """
        self.settings = settings
        self.failure: tuple[str, BaseException] | None = None
        self._wake = wake
        self.desk = RefusalDesk()
        self.workers: list[Worker] = []
        self.listener: Listener | None = None
        self._listener_link = self._link(urls, "alarmdigest")
        self.publisher = Publisher(
            self._link(urls, "alarmdigest-publisher"),
            producers=settings.workers + 1,
            digest_subject=settings.digest_subject,
            rejected_subject=settings.rejected_subject,
            on_failure=self._thread_died,
        )

    def _link(self, urls: list[str], name: str) -> Link:
        return Link(urls, name=name, ping_interval=self.settings.ping_interval / 1e9)

    # -- start -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up, or return before that because ``wake`` is set.

        Raises NotReachable, SettingsError.
        """
        deadline = time.monotonic() + self.settings.connect_timeout / 1e9
        self.publisher.start()
        if not self._await(self.publisher.connected, deadline, self.publisher.link):
            return
        self.workers = self._make_workers()
        self.listener = self._make_listener()
        for worker in self.workers:
            worker.start()
        self.listener.start()
        self._await(self.listener.consuming, deadline, self._listener_link)

    def _make_workers(self) -> list[Worker]:
        # Whoever knows the secret could choose ids that make the tables slow.
        secret = os.urandom(16)
        return [
            Worker(
                number,
                AlarmBook(
                    retention_ns=self.settings.retention,
                    split_bytes=self._split_bytes(),
                    secret=secret,
                    publish_empty=self.settings.publish_empty,
                ),
                self.publisher.queue,
                self._thread_died,
            )
            for number in range(self.settings.workers)
        ]

    def _make_listener(self) -> Listener:
        router = Router(
            workers=self.settings.workers,
            buckets=BUCKETS,
            hash32=mmh3.hash,
            skew_ns=self.settings.clock_skew,
            read_odd=self.desk.read,
        )
        return Listener(
            self._listener_link,
            router,
            self.desk,
            self.workers,
            self.publisher.queue,
            event_subject=self.settings.event_subject,
            request_subject=self.settings.request_subject,
            backlog_limit=self.settings.backlog_limit,
            on_failure=self._thread_died,
        )

    def _split_bytes(self) -> int:
        room = self.publisher.max_payload - HEADER_ROOM_BYTES
        wanted = self.settings.split_size
        if wanted == SPLIT_AUTO:
            wanted = room
        if wanted > room:
            raise SettingsError(
                f"--split-size {wanted} is too large: the server takes {room} bytes and headers"
            )
        return wanted

    def _await(self, event: threading.Event, deadline: float, link: Link) -> bool:
        while not event.wait(TICK_S):
            if self._wake.is_set():
                return False
            if time.monotonic() > deadline:
                raise NotReachable(f"NATS is not reachable: {link.last_error}")
        return True

    # -- watching --------------------------------------------------------------------------------

    @property
    def threads(self) -> list[ServiceThread]:
        listener = [self.listener] if self.listener is not None else []
        return [*listener, *self.workers, self.publisher]

    def illnesses(self) -> list[str]:
        """Why the process should be replaced; empty when all threads are alive and beating."""
        found = []
        for thread in self.threads:
            if not thread.is_alive():
                found.append(f"thread {thread.name} is not running")
            elif thread.stuck:
                found.append(f"thread {thread.name} is stuck")
        return found

    def unreadiness(self) -> list[str]:
        """Why it does not do its work right now, though it may again; empty when ready."""
        found = self.illnesses()
        if self.listener is None or not self.listener.consuming.is_set():
            found.append(f"not subscribed to NATS: {self._listener_link.last_error}")
        elif self.listener.dropping:
            found.append("workers lag behind: messages are dropped")
        if not self.publisher.connected.is_set():
            found.append(f"the publisher has no connection: {self.publisher.link.last_error}")
        if self.publisher.held_because is not None:
            found.append(f"digests cannot be published: {self.publisher.held_because}")
        return found

    def _thread_died(self, thread: threading.Thread, error: BaseException) -> None:
        self.failure = (thread.name, error)
        self._wake.set()

    # -- stop ------------------------------------------------------------------------------------

    def drain(self) -> bool:
        """Stop in order; everything that has arrived comes out. False if it took too long."""
        deadline = time.monotonic() + self.settings.drain_timeout / 1e9
        if self.listener is None:  # it never came to subscribing: there is nothing to bring out
            self.publisher.give_up()
        else:
            self.listener.stop()
        for thread in self.threads:
            while thread.is_alive():
                if self.failure is not None or time.monotonic() > deadline:
                    self.publisher.give_up()
                    return False
                thread.join(TICK_S)
        return self.failure is None
