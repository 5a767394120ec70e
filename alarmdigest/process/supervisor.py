"""Telling systemd how we are, as sd_notify(3) describes it; without systemd nothing happens."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

from alarmdigest.runtime.logs import LimitedLog

log = logging.getLogger(__name__)

# How often the state is looked at; a watchdog that is shorter is fed more often.
LOOK_INTERVAL_S = 1.0
STATUS_MAX_CHARS = 500


class Supervisor:
    """What systemd hears of us. Belongs to the main thread.

    A message that cannot be sent is logged and given up: work goes on.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Of the environment: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # an abstract one
            self._address = "\0" + self._address[1:]
        self._watchdog = _watchdog_s(environment)
        # systemd asks for a sign at half the time, so that one may be late.
        self._interval_s = min(LOOK_INTERVAL_S, self._watchdog / 4 or LOOK_INTERVAL_S)
        self._next_look = 0.0
        self._status = ""
        self._trouble = LimitedLog(log, logging.WARNING)

    def ready(self) -> None:
        self._tell("READY=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1\nSTATUS=draining")

    def look_at(
        self,
        readiness_failures: Callable[[], list[str]],
        liveness_failures: Callable[[], list[str]],
    ) -> None:
        """Call it often: feeds the watchdog while nothing keeps us from living, and tells what
        keeps us from being ready.

        Not needed while it drains: systemd stops its watchdog at STOPPING=1.
        """
        now = time.monotonic()
        if not self._address or now < self._next_look:
            return
        self._next_look = now + self._interval_s
        messages = []
        status = "; ".join(readiness_failures()) or "ready"
        if status != self._status:
            self._status = status
            messages.append(f"STATUS={status[:STATUS_MAX_CHARS]}")
        if self._watchdog and not liveness_failures():
            messages.append("WATCHDOG=1")
        if messages:
            self._tell("\n".join(messages))

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)  # the main thread waits for nobody
                sock.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            self._trouble("cannot tell systemd how we are", reason=error)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Seconds within which systemd wants a sign; 0 for never, or when another process is meant."""
    wanted = environment.get("WATCHDOG_USEC", "")
    ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(wanted) / 1e6 if wanted.isascii() and wanted.isdigit() and ours else 0.0
