"""A thread of the service: it has a name, gives signs of life, and never dies quietly."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable

# How long our loops wait for something before they look around.
TICK_S = 0.2
# Longer than this no call should take, however slow the disk: readiness says so.
BUSY_IS_TROUBLE_S = 5.0
# A thread without a sign of life for so long is stuck; waiting for others is done in ticks.
STUCK_AFTER_S = 30.0


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
        self.busy_since = 0.0

    def sign_of_life(self) -> None:
        self.alive_at = time.monotonic()

    def busy(self, what: str) -> Busy:
        """For a single call that takes as long as it takes, since a disk or a network may be slow:
        a restart would not make it faster, so within the block the thread is not stuck."""
        return Busy(self, what)

    @property
    def busy_for_s(self) -> float:
        return time.monotonic() - self.busy_since if self.busy_with else 0.0

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


class Busy:
    """The block of ``ServiceThread.busy``. No generator: it is entered for each lone digest."""

    __slots__ = ("_thread", "_what")

    def __init__(self, thread: ServiceThread, what: str) -> None:
        self._thread = thread
        self._what = what

    def __enter__(self) -> None:
        self._thread.busy_since = time.monotonic()
        self._thread.busy_with = self._what

    def __exit__(self, *_exception: object) -> None:
        self._thread.busy_with = ""
        self._thread.sign_of_life()
