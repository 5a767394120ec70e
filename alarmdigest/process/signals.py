"""The signals that end the service or ask it for something.

A separate thread reads them; the signal wakes it through a pipe. So they work even if the main
thread is stuck in a call.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

from alarmdigest.process import thread_dump

log = logging.getLogger(__name__)

ENDING = (signal.SIGTERM, signal.SIGINT)
HANDLED = (*ENDING, signal.SIGHUP, signal.SIGUSR1)
# One wish may come twice: from a shell or `timeout`, once for the process and once for its group.
# Only what comes later than this is a second one.
SAME_WISH_S = 0.5


class Signals:
    """``stop_asked`` is whether SIGTERM or SIGINT came. A later one calls ``stop_at_once(name)``,
    and SIGHUP ``hung_up()``, in the thread that reads; SIGUSR1 has the stacks written."""

    def __init__(self, *, stop_at_once: Callable[[str], None], hung_up: Callable[[], None]) -> None:
        self.stop_asked = False
        self._asked_at = 0.0
        self._stop_at_once = stop_at_once
        self._hung_up = hung_up

    def start(self) -> None:
        """Call it once, from the main thread. Raises RuntimeError where no thread can be started,
        and OSError without a pipe."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        threading.Thread(target=self._serve, args=(reading,), name="signals", daemon=True).start()
        # The handler in C writes a byte for every signal, and Python installs it only for a signal
        # that has a handler in Python.
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        # Whoever started us may have had its reasons to block them or to ignore its children.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    @staticmethod
    def end() -> None:
        """From here on they change nothing: at its end the interpreter puts back the handlers that
        kill, and the exit code would be lost. Call it from the main thread."""
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)

    def ask_to_stop(self) -> None:
        """As the first SIGTERM does."""
        if not self.stop_asked:
            self.stop_asked = True
            self._asked_at = time.monotonic()

    def _serve(self, reading: int) -> None:
        while numbers := os.read(reading, 4096):
            for number in numbers:
                try:
                    self._take(signal.Signals(number))
                except Exception:  # the next one must find somebody here
                    log.exception("a signal could not be obeyed: %s", number)

    def _take(self, number: signal.Signals) -> None:
        if number == signal.SIGUSR1:
            thread_dump.write()
        elif number == signal.SIGHUP:
            self._hung_up()
        elif number in ENDING and not self.stop_asked:
            self.ask_to_stop()
        elif number in ENDING and time.monotonic() - self._asked_at > SAME_WISH_S:
            self._stop_at_once(number.name)
