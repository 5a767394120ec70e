"""One worker: a queue of routed batches, and the alarm book of its users."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.threads import TICK_S, ServiceThread, put_patiently


class Worker(ServiceThread):
    """Merges what is routed to it and hands the digests to the publisher.

    ``merged_bytes`` counts what it has worked off: the client thread compares it with what it has
    handed over, so neither has to take a lock for the backlog.
    """

    def __init__(
        self,
        number: int,
        book: AlarmBook,
        digests: queue.Queue[bytes | None],
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__(f"worker-{number}", on_failure)
        self.book = book
        # Not bounded by itself: the client thread must never wait for a worker, so it is the one
        # that bounds, in bytes over all workers (see listener.py). None ends the worker.
        self.queue: queue.Queue[bytes | None] = queue.Queue()
        self.merged_bytes = 0
        self._digests = digests

    def work(self) -> None:
        while True:
            self.beat()
            try:
                batch = self.queue.get(timeout=TICK_S * 5)
            except queue.Empty:
                continue
            if batch is None:
                break
            self._merge(batch)
            self.merged_bytes += len(batch)
        put_patiently(self._digests, None, self.beat)

    def _merge(self, batch: bytes) -> None:
        position = 0
        while position < len(batch):
            made, position = self.book.merge(batch, position)
            if made:
                # Digests are never dropped: a publisher that cannot publish makes us wait.
                put_patiently(self._digests, made, self.beat)
