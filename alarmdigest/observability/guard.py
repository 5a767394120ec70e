"""What keeps the HTTP side small: few connections at a time, short lives, short requests, and no
web page from elsewhere that reads it through its visitor's browser."""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import time
from functools import lru_cache
from http import HTTPStatus

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTION_LIFE_S = 10.0
MAX_REQUEST_BYTES = 16 * 1024


def _most_connections() -> int:
    """At most a quarter of the descriptors that the process may have: the rest is the service's."""
    descriptors, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 128 if descriptors == resource.RLIM_INFINITY else max(4, min(128, descriptors // 4))


MAX_CONNECTIONS = _most_connections()
# After accept() has failed for want of descriptors.
FEWER_FOR_S = 60.0


class Places:
    """Who is connected, the oldest first. Belongs to the event loop.

    Whoever comes when all places are taken is let in, and the oldest connection ends: a probe is
    answered within milliseconds, so the oldest one is idle or slow.
    """

    def __init__(self) -> None:
        self._taken: dict[BoundedConnection, None] = {}
        self._most = MAX_CONNECTIONS
        self._fewer_until = 0.0

    def take(self, connection: BoundedConnection) -> None:
        if self._most < MAX_CONNECTIONS and time.monotonic() > self._fewer_until:
            self._most = MAX_CONNECTIONS
        self._taken[connection] = None
        if len(self._taken) > self._most:
            next(iter(self._taken)).end()

    def leave(self, connection: BoundedConnection) -> None:
        self._taken.pop(connection, None)

    def be_fewer(self) -> None:
        """There was no descriptor for one more: end all, and have fewer for a while."""
        self._most = max(2, len(self._taken) - 4)
        self._fewer_until = time.monotonic() + FEWER_FOR_S
        for connection in list(self._taken):
            connection.end()


# Of the process, since its descriptors are shared.
places = Places()


class BoundedConnection(H11Protocol):
    """One that has a place for CONNECTION_LIFE_S at most, and asks once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # A timeout of the socket would begin again with every byte.
        self._end_of_life = self.loop.call_later(CONNECTION_LIFE_S, self.end)
        self._received = 0
        places.take(self)

    def connection_lost(self, exc: Exception | None) -> None:
        places.leave(self)
        self._end_of_life.cancel()
        super().connection_lost(exc)

    def end(self) -> None:
        """Close at once; what the client has not read yet is dropped."""
        places.leave(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.cycle is not None:  # one request each: whatever comes behind it is not for us
            return
        self._received += len(data)
        if self._received > MAX_REQUEST_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST)

    def _refuse(self, status: HTTPStatus) -> None:
        """In words that hold nothing of what the client sent."""
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(status.phrase) + 1}\r\nConnection: close\r\n\r\n"
            f"{status.phrase}\n".encode()
        )
        self.transport.close()


def may_ask_as(host_header: str | None, served_at: str) -> bool:
    """Whether a request that names us by this ``Host`` is to be answered.

    A page from elsewhere can make its own name point to the loopback (DNS rebinding) and would
    then read us as itself; but the name it asks for is its own. Where we were told to listen
    elsewhere than on the loopback, we do not know under which names we are reached, and answer.
    """
    if host_header is None or not _is_loopback(served_at):  # no browser leaves it out
        return True
    name = _without_port(host_header).lower().rstrip(".")
    return name == served_at.lower() or _is_loopback(name)


@lru_cache(maxsize=64)
def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _without_port(place: str) -> str:
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0]
