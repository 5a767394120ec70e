"""The queues between threads, and how one wakes another that sleeps in a poll."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import TypeVar

from alarmdigest.runtime.service_thread import TICK_S

Item = TypeVar("Item")


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
    thread that takes from it may sleep in a poll of ``waker`` instead: see ``sleeping``. Before it
    waits for anything else that the same poll would end, it calls ``forget_wake``.
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

    def forget_wake(self) -> None:
        """Let other polls of the waker wait again; what has come is in the queue all the same."""
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

    def take(self, most: int) -> list[Item]:
        """What is there, up to the item that reaches ``most`` bytes, without waiting."""
        taken: list[Item] = []
        with self.mutex:
            least_left = self._bytes - most
            while self.queue and self._bytes > least_left:
                taken.append(self._get())
            if taken:
                self.not_full.notify_all()
        return taken


class SingleReaderQueue(queue.Queue[Item]):
    """Unbounded, and read by one thread: to wake it takes no condition, of which a lone message
    would notice the cost. Not ``queue.SimpleQueue``, whose items nobody can look at."""

    def __init__(self) -> None:
        super().__init__()
        self._asleep = False
        self._wake = threading.Lock()
        self._wake.acquire()

    def put(self, item: Item, block: bool = True, timeout: float | None = None) -> None:
        with self.mutex:
            self.queue.append(item)
            woken, self._asleep = self._asleep, False
        if woken:
            self._wake.release()

    def get(self, block: bool = True, timeout: float | None = None) -> Item:
        """Raises queue.Empty."""
        with self.mutex:
            if self.queue:
                return self._get()
            if not block or (timeout is not None and timeout <= 0):
                raise queue.Empty
            self._asleep = True
        if not self._wake.acquire(timeout=-1 if timeout is None else timeout):
            with self.mutex:
                if self._asleep:
                    self._asleep = False
                    raise queue.Empty
            self._wake.acquire()  # something has come in that very moment
        with self.mutex:
            return self._get()


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
