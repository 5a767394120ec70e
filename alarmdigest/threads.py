"""A thread of the service: it has a name, it beats, and it never dies quietly."""

from __future__ import annotations

import queue
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

# How long our loops wait for something before they look around.
TICK_S = 0.2
# A thread that has not beaten for so long is stuck; waiting for others is done in ticks.
STUCK_AFTER_S = 30.0

Item = TypeVar("Item")


class ServiceThread(threading.Thread):
    """Subclasses implement work() and call beat() at least every few seconds in it.

    Whatever leaves work() as an exception is handed to ``on_failure(thread, exception)``, whose
    business it is to take the process down: a service with a missing thread loses messages.
    """

    def __init__(
        self, name: str, on_failure: Callable[[threading.Thread, BaseException], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._on_failure = on_failure
        self.last_beat = time.monotonic()

    def beat(self) -> None:
        self.last_beat = time.monotonic()

    @property
    def stuck(self) -> bool:
        return self.is_alive() and time.monotonic() - self.last_beat > STUCK_AFTER_S

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self._on_failure(self, error)

    @abstractmethod
    def work(self) -> None:
        """What the thread does until its service has been stopped."""


class ByteQueue(queue.Queue[Item]):
    """A queue that is full when it holds ``maxsize`` bytes; an item that is not bytes counts as 1.

    The item that goes beyond the bound is still taken, so that one of any size can pass.
    """

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._bytes = 0

    def _qsize(self) -> int:
        return self._bytes

    def _put(self, item: Item) -> None:
        super()._put(item)
        self._bytes += _size(item)

    def _get(self) -> Item:
        item = super()._get()
        self._bytes -= _size(item)
        return item


def _size(item: object) -> int:
    return len(item) if isinstance(item, bytes) else 1


def put_patiently(target: queue.Queue[Item], item: Item, beat: Callable[[], None]) -> None:
    """Put into a bounded queue, however long it takes, beating meanwhile."""
    while True:
        beat()
        try:
            return target.put(item, timeout=TICK_S)
        except queue.Full:
            continue
