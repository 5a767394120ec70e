"""Connects to whichever of several servers answers first ("Happy Eyeballs", RFC 8305).

A server that hangs accepts connections and sends nothing; a name may take long to look up, or have
several addresses. None of this may keep us from a healthy server. So if an attempt has not
succeeded after STAGGER_S, the next one starts beside it.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectFailed
from alarmdigest.nats.url import DEFAULT_PORT, redacted
from alarmdigest.runtime.resource_limits import exhausted_resource

STAGGER_S = 0.3
# How often the caller is asked whether to go on.
STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Target:
    """A server; ``address`` is one of the addresses of its name, None before it is looked up."""

    url: str
    address: str | None = None


class ConnectionRace:
    """One attempt for each target, started in this order. The first that succeeds wins."""

    def __init__(
        self,
        urls: Iterable[str],
        make: Callable[[Target], Connection],
        on_failure: Callable[[Target, ConnectFailed], None],
    ) -> None:
        """``make`` gives a Connection that is not open yet. ``on_failure`` is called once for each
        server, in the thread that calls ``run``."""
        self._make = make
        self._on_failure = on_failure
        self._waiting = deque(Target(url) for url in urls)
        # For each server the attempts that have not failed. It has failed when none is left.
        self._pending = Counter(target.url for target in self._waiting)
        self._running = 0
        self._failed: list[tuple[Target, ConnectFailed]] = []
        self._winner: tuple[Target, Connection] | None = None
        self._over = False
        self._changed = threading.Condition()

    def run(self, go_on: Callable[[], bool]) -> tuple[Target, Connection] | None:
        """The winner; None when all have failed, or as soon as ``go_on()`` is false."""
        next_at = 0.0
        while go_on():
            target = None
            with self._changed:
                now = time.monotonic()
                if self._waiting and (not self._running or now >= next_at):
                    next_at = now + STAGGER_S
                    target = self._waiting.popleft()
                    self._running += 1
            if target is not None:
                self._start(target)
            with self._changed:
                if self._winner is None and not self._failed:
                    self._changed.wait(STEP_S)
                failed, self._failed = self._new_failures(), []
                won = self._winner
                ended = won is not None or not (self._waiting or self._running)
                self._over = ended
            for target, error in failed:
                self._on_failure(target, error)
            if ended:
                return won
        with self._changed:
            self._over = True
            if self._winner is not None:
                self._winner[1].close()
        return None

    def _new_failures(self) -> list[tuple[Target, ConnectFailed]]:
        found = []
        for target, error in self._failed:
            self._pending[target.url] -= 1
            if self._pending[target.url] == 0:
                found.append((target, error))
        return found

    def _start(self, target: Target) -> None:
        thread = threading.Thread(
            target=self._attempt, args=(target,), name="connecting", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads are allowed: try one after the other
            self._attempt(target)

    def _attempt(self, target: Target) -> None:
        connection: Connection | None = None
        failure: ConnectFailed | None = None
        try:
            target = self._first_address(target)
            connection = self._make(target)
            connection.connect()
        except ConnectFailed as error:
            failure = error
        except Exception as error:
            # No error of a library in one attempt may end the thread that needs a server.
            why = exhausted_resource(error) or f"{type(error).__name__}: {error}"
            failure = ConnectFailed(f"{redacted(target.url)}: {why}")
            if connection is not None:
                connection.close()
        with self._changed:
            self._running -= 1
            if failure is not None:
                self._failed.append((target, failure))
            elif self._over or self._winner is not None:
                with suppress(OSError):
                    assert connection is not None
                    connection.close()
            else:
                assert connection is not None
                self._winner = (target, connection)
            self._changed.notify()

    def _first_address(self, target: Target) -> Target:
        """The target by the first address of its name; the other addresses become targets, too."""
        parts = urlsplit(target.url)
        host = parts.hostname or ""
        if target.address is not None or _is_address(host):
            return target
        try:
            found = socket.getaddrinfo(host, parts.port or DEFAULT_PORT, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectFailed(f"{redacted(target.url)}: {error}") from error
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        with self._changed:
            self._pending[target.url] += len(addresses) - 1
            self._waiting.extendleft(Target(target.url, one) for one in reversed(addresses[1:]))
        return Target(target.url, addresses[0])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
