"""A thread of the service: it has a name, it beats, and it never dies quietly."""

from __future__ import annotations

import queue
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

# No loop of ours waits longer than this without beating.
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


def put_patiently(target: queue.Queue[Item], item: Item, beat: Callable[[], None]) -> None:
    """Put into a bounded queue, however long it takes, beating meanwhile."""
    while True:
        beat()
        try:
            return target.put(item, timeout=TICK_S)
        except queue.Full:
            continue
