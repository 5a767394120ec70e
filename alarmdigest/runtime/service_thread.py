"""A thread of the service: it has a name, gives signs of life, and never dies quietly."""

from __future__ import annotations

import os
import queue
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import TypeVar

# How long our loops wait for something before they look around.
TICK_S = 0.2
# Longer than this no call should take, however slow the disk: readiness says so.
BUSY_IS_TROUBLE_S = 5.0
# A thread without a sign of life for so long is stuck; waiting for others is done in ticks.
STUCK_AFTER_S = 30.0

Item = TypeVar("Item")


class ServiceThread(threading.Thread):
    """Subclasses implement work() and call sign_of_life() at least every few seconds in it.

    Whatever leaves work() as an exception is handed to ``on_failure(thread, exception)``, whose
    business it is to take the process down: a service with a missing thread loses messages.
    """

    def __init__(
        self, name: str, on_failure: Callable[[threading.Thread, BaseException], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._on_failure = on_failure
        self.alive_at = time.monotonic()
        self.busy_with = ""
        self._busy_since = 0.0

    def sign_of_life(self) -> None:
        self.alive_at = time.monotonic()

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """For a single call that takes as long as it takes, since a disk or a network may be slow:
        a restart would not make it faster, so within the block the thread is not stuck."""
        self._busy_since = time.monotonic()
        self.busy_with = what
        try:
            yield
        finally:
            self.busy_with = ""
            self.sign_of_life()

    @property
    def busy_for_s(self) -> float:
        return time.monotonic() - self._busy_since if self.busy_with else 0.0

    @property
    def stuck(self) -> bool:
        silent = time.monotonic() - self.alive_at > STUCK_AFTER_S
        return self.is_alive() and silent and not self.busy_with

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self._on_failure(self, error)

    @abstractmethod
    def work(self) -> None:
        """What the thread does until its service has been stopped."""


class Waker:
    """Ends the poll of another thread: ``fileno`` can be read from ``wake`` on until ``clear``."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        for fd in (self._reading, self._writing):
            os.set_blocking(fd, False)

    def fileno(self) -> int:
        return self._reading

    def wake(self) -> None:
        with suppress(BlockingIOError):  # nobody has cleared it for long, and it is set
            os.write(self._writing, b"!")

    def clear(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._reading, 4096)


class ByteQueue(queue.Queue[Item]):
    """A queue that is full when it holds ``maxsize`` bytes; what has no size counts as 1.

    The item that goes beyond the bound is still taken, so that one of any size can pass. The one
    thread that takes from it may sleep in a poll of ``waker`` instead: see ``sleeping``.
    """

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self.waker = Waker()
        self._sleeping = False

    @contextmanager
    def sleeping(self) -> Iterator[bool]:
        """Within the block the next item sets the waker. Gives whether it is worth to sleep: not
        when something is there already."""
        with self.mutex:
            self._sleeping = empty = not self.queue
        try:
            yield empty
        finally:
            with self.mutex:
                woken = empty and not self._sleeping
                self._sleeping = False
            if woken:
                self.waker.clear()

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._bytes = 0

    def _qsize(self) -> int:
        return self._bytes

    def _put(self, item: Item) -> None:
        super()._put(item)
        self._bytes += _size(item)
        if self._sleeping:
            self._sleeping = False
            self.waker.wake()

    def _get(self) -> Item:
        item = super()._get()
        self._bytes -= _size(item)
        return item


def _size(item: object) -> int:
    # An empty one counts too: a queue of no size is taken for an empty queue.
    return len(item) or 1 if isinstance(item, Sized) else 1


def put_with_heartbeat(
    target: queue.Queue[Item], item: Item, sign_of_life: Callable[[], None]
) -> None:
    """Put into a bounded queue, however long it takes, with signs of life meanwhile."""
    while True:
        sign_of_life()
        try:
            return target.put(item, timeout=TICK_S)
        except queue.Full:
            continue
