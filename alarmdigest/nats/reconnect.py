"""Servers to choose from, and opening the next connection when one has broken.

As the NATS clients do it (ADR-40): the first attempt after a loss is made at once, then every
round over all known servers is followed by a pause that doubles, with jitter, up to a limit.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from alarmdigest.nats.auth import Login
from alarmdigest.nats.connection import ATTEMPT_TIMEOUT_S, NO_LOGIN, Connection
from alarmdigest.nats.connection_race import ConnectionRace, Target
from alarmdigest.nats.errors import ConnectFailed, UrlError
from alarmdigest.runtime.logs import Fields, LimitedLog

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
# A connection that lasted this long was a good one: after its loss we do not pause.
GOOD_AFTER_S = 5.0
# Servers that are slow, all of them, must not be taken for hung again and again: each time that one
# is soon after the connection, the next one is given twice as long.
MOST_PATIENCE = 8.0
# How long a pause may last before the caller is asked whether to go on.
STEP_S = 0.1

log = logging.getLogger(__name__)


class Reconnector:
    """Opens connections for one thread, one after the other, for ever.

    ``login`` may be replaced by another thread; it counts from the next connection on.
    """

    def __init__(
        self,
        urls: list[str],
        *,
        name: str,
        login: Login = NO_LOGIN,
        ping_interval: float = 20.0,
        attempt_timeout: float = ATTEMPT_TIMEOUT_S,
        short_lived: bool = False,
    ) -> None:
        """Raises UrlError at once for a URL that can never work. Times in seconds;
        ``attempt_timeout`` is for one attempt to connect to one server.

        ``short_lived``: connections are closed on purpose when their work is done; that is no news,
        and no reason to wait before the next one, or to go elsewhere.
        """
        self._name = name
        self._short_lived = short_lived
        self.login = login
        self._ping_interval = ping_interval
        self._attempt_timeout = attempt_timeout
        self._configured = list(urls)
        self._learned: list[str] = []
        self._tls_names: dict[str, str] = {}
        self._current: str | None = None
        self._last: Connection | None = None
        self._patience = 1.0
        self._current_name: str | None = None
        self._pause_s = 0.0
        self._opened_at = -math.inf
        # When each server was lost or did not let us in.
        self._failed_at: dict[tuple[str | None, int], float] = {}
        self._failures = LimitedLog(log, logging.WARNING)
        self.connections = 0
        self.opened: Connection | None = None  # the newest one, whether it is still open or not
        self.last_error = "not tried yet"
        for url in urls:
            Connection(url, name=name)
        # Asked after every read, so it is worked out where it may have changed.
        self._has_alternative = False
        self._compare_places()

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self.connections - 1)

    def connect_with_backoff(self, go_on: Callable[[], bool]) -> Connection | None:
        """The next connection; None as soon as ``go_on()``, asked ten times a second, is false."""
        if self._current is not None and not self._short_lived:
            # It is gone now, else nobody would ask.
            self._failed_at[_place(self._current)] = time.monotonic()
        good = self._short_lived or time.monotonic() - self._opened_at > GOOD_AFTER_S
        if good:
            self._pause_s = 0.0
        if self._last is not None:
            hung = self._last.hung and not good
            self._patience = min(self._patience * 2, MOST_PATIENCE) if hung else 1.0
        while self._pause(go_on):
            self._pause_s = min(max(FIRST_PAUSE_S, self._pause_s * 2), LONGEST_PAUSE_S)
            candidates = self._candidates()
            won = ConnectionRace(candidates, self._connection, self._failed).run(go_on)
            if won is not None:
                target, connection = won
                # Those that had their turn before it hang, perhaps: not first again.
                for url in candidates[: candidates.index(target.url)]:
                    self._failed_at[_place(url)] = time.monotonic()
                self._current, self._last = target.url, connection
                self._current_name = self._tls_names.get(target.url) or _host(target.url)
                self._opened_at = time.monotonic()
                self.connections += 1
                self.opened = connection
                self.learn(connection)
                log.log(
                    logging.DEBUG if self._short_lived else logging.INFO,
                    "connected%s",
                    Fields(
                        name=self._name,
                        server=connection.url,
                        version=connection.version,
                    ),
                )
                return connection
        return None

    def _connection(self, target: Target) -> Connection:
        return Connection(
            target.url,
            name=self._name,
            login=self.login,
            timeout=self._attempt_timeout,
            ping_interval=self._ping_interval,
            tls_name=self._tls_names.get(target.url),
            address=target.address,
            patience=self._patience,
        )

    def _failed(self, target: Target, error: ConnectFailed) -> None:
        self.last_error = str(error)
        self._failed_at[_place(target.url)] = time.monotonic()
        self._failures("cannot connect", target.url, name=self._name, reason=error)

    def _pause(self, go_on: Callable[[], bool]) -> bool:
        """Wait before the next round; false as soon as we shall not go on."""
        deadline = time.monotonic() + self._pause_s * random.uniform(0.5, 1.0)
        while (left := deadline - time.monotonic()) > 0 and go_on():
            time.sleep(min(left, STEP_S))
        return go_on()

    def learn(self, connection: Connection) -> None:
        """Remember the other servers of the cluster, as the server's INFO lists them."""
        if self._current is None:
            return
        known = urlsplit(self._current)
        credentials = known.netloc.rpartition("@")[0]
        prefix = f"{known.scheme}://{credentials}@" if credentials else f"{known.scheme}://"
        # Servers announce each other by address, and certificates hold names: then it is the name
        # under which we were led there that must be in it, as the NATS clients have it.
        name = self._current_name
        self._learned, self._tls_names = [], {}
        configured = {_place(url) for url in self._configured}
        places = connection.info.get("connect_urls")
        for place in places if isinstance(places, list) else ():
            if not isinstance(place, str):
                continue
            url = prefix + place
            with suppress(UrlError, ValueError):  # some server's mistake must not end this thread
                if _place(url) in configured:
                    continue
                Connection(url, name=self._name)
                self._learned.append(url)
                if name and _is_address(urlsplit(url).hostname) and not _is_address(name):
                    self._tls_names[url] = name
        self._compare_places()

    def avoid(self, connection: Connection) -> None:
        """Try its server last next time: it is there, but does not give what we need."""
        self._failed_at[_place(connection.url)] = time.monotonic()

    def has_alternative(self) -> bool:
        """Whether there is a server besides the one in use."""
        return self._has_alternative

    def _compare_places(self) -> None:
        current = _place(self._current or "")
        self._has_alternative = any(_place(url) != current for url in self._all())

    def _all(self) -> list[str]:
        places: dict[tuple[str | None, int], str] = {}
        for url in self._configured + self._learned:
            places.setdefault(_place(url), url)
        return list(places.values())

    def _candidates(self) -> list[str]:
        """All servers: the configured ones first, and those that failed us last, the last of them
        at the end. A server that hangs looks well to whoever connects."""
        return sorted(self._all(), key=lambda url: self._failed_at.get(_place(url), 0.0))


def _host(url: str) -> str | None:
    return urlsplit(url).hostname


def _is_address(host: str | None) -> bool:
    try:
        ip_address(host or "")
    except ValueError:
        return False
    return True


def _place(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or 4222
