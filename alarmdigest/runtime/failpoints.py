"""Points at which a test may have this process die, as if by ``kill -9``. For tests only.

``ALARMDIGEST_FAILPOINT=store.after_write:3`` in the environment kills the process when it reaches
the point of that name for the third time; without a number, for the first. With
``store.after_write:3:stall`` the thread that reaches it stands still for ever instead, and the rest
of the process goes on. Nothing else may be built on it: a point is a place in the code, and moves
with it.
"""

import os
import signal
import threading


class _Armed:
    """The one point that is armed, and how many times it is still passed unharmed."""

    def __init__(self, text: str) -> None:
        self.name, _, rest = text.partition(":")
        times, _, what = rest.partition(":")
        self._stalls = what == "stall"
        self._left = int(times or 1)
        self._lock = threading.Lock()

    def reached(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return
            if not self._stalls:
                os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()  # a signal may take an instant; nothing comes after it


_text = os.environ.get("ALARMDIGEST_FAILPOINT")
_armed = _Armed(_text) if _text else None


def reach(name: str) -> None:
    """Die or stand still here if a test asked for it. ``name`` is ``part.what_happens``."""
    if _armed is not None and _armed.name == name:
        _armed.reached()
