"""SIGUSR1: the stack of every thread, with its name, on stderr.

A thread of its own writes them. The kernel's signal wakes it through a pipe, so the main thread may
hang in whatever call. Not by ``faulthandler.register``: it reads the stacks of threads that run
meanwhile, and now and then the process does not survive that.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback


def write_when_asked() -> None:
    """Call it once, from the main thread."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # The handler in C writes a byte for every signal, and Python installs it only for a signal that
    # has a handler in Python.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    threading.Thread(target=_serve, args=(reading,), name="stacks", daemon=True).start()
    # For SIGABRT, when a thread keeps the interpreter to itself: stacks without names, and the end.
    faulthandler.enable()


def _serve(reading: int) -> None:
    while numbers := os.read(reading, 4096):
        if signal.SIGUSR1 in numbers:
            _write()


def _write() -> None:
    names = {one.ident: one.name for one in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        head = f"Thread {names.get(ident, 'without a name')} (most recent call last):\n"
        text = head + "".join(traceback.format_stack(frame)) + "\n"
        try:
            os.write(2, text.encode("utf-8", "backslashreplace"))  # sys.stderr has a lock
        except OSError:
            return  # nobody reads it
