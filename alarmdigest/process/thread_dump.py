"""The stack of every thread, with its name, on stderr: for SIGUSR1, and when the process crashes.

Not by ``faulthandler.register``: it reads the stacks of threads that run meanwhile, and now and
then the process does not survive that.
"""

from __future__ import annotations

import faulthandler
import os
import stat
import sys
import threading
import traceback

from alarmdigest.runtime import log_writer


def write() -> None:
    """Behind what was logged before; without waiting for whoever reads stderr."""
    names = {one.ident: one.name for one in threading.enumerate()}
    writer = log_writer.current()
    for ident, frame in sys._current_frames().items():
        head = f"Thread {names.get(ident, 'without a name')} (most recent call last):\n"
        if writer is not None:
            writer.put_stray(head + "".join(traceback.format_stack(frame)))


def write_in_a_crash() -> None:
    """For SIGSEGV, and SIGABRT when a thread keeps the interpreter to itself: stacks without
    names, and the end. Call it once."""
    faulthandler.enable(_stderr_that_does_not_block())


def _stderr_that_does_not_block() -> int:
    """A crash must end the process, also when nobody reads its stderr. A pipe or a terminal can be
    opened once more, so that it blocks nobody, neither us nor those with whom we share it."""
    try:
        mode = os.fstat(2).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # another system, or another user's terminal
        pass
    return 2
