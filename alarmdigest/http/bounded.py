"""Connections that cannot hold up the process: few at a time, each with a time limit."""

from __future__ import annotations

import asyncio
import resource
import time
from http import HTTPStatus

from uvicorn.protocols.http.h11_impl import H11Protocol

# After accept() has failed for want of descriptors.
FEWER_FOR_S = 60.0


def _most_connections() -> int:
    """At most a quarter of the descriptors that the process may have: the rest is for its work."""
    descriptors, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 128 if descriptors == resource.RLIM_INFINITY else max(4, min(128, descriptors // 4))


MAX_CONNECTIONS = _most_connections()


class Places:
    """Who is connected, the oldest first. Belongs to the event loop.

    Whoever comes when all places are taken is let in, and the oldest connection ends whose request
    is not being answered: it is idle or slow, or its client would be.
    """

    def __init__(self) -> None:
        self._taken: dict[BoundedConnection, None] = {}
        self._most = MAX_CONNECTIONS
        self._fewer_until = 0.0

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, connection: BoundedConnection) -> None:
        if self._most < MAX_CONNECTIONS and time.monotonic() > self._fewer_until:
            self._most = MAX_CONNECTIONS
        self._taken[connection] = None
        if len(self._taken) > self._most:
            # At the end it is the newcomer's turn.
            next(one for one in self._taken if not one.is_answering).end()

    def leave(self, connection: BoundedConnection) -> None:
        self._taken.pop(connection, None)

    def be_fewer(self) -> None:
        """There was no descriptor for one more: end all but those that are being answered, and have
        fewer for a while."""
        self._most = max(2, len(self._taken) - 4)
        self._fewer_until = time.monotonic() + FEWER_FOR_S
        for connection in [one for one in self._taken if not one.is_answering]:
            connection.end()


# Of the process, since its descriptors are shared.
places = Places()


class BoundedConnection(H11Protocol):
    """One that has a place. What it may take is the subclass's to say."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        places.take(self)

    def connection_lost(self, exc: Exception | None) -> None:
        places.leave(self)
        super().connection_lost(exc)

    @property
    def is_answering(self) -> bool:
        """A request has come as a whole, and its answer has not gone out yet."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def end(self) -> None:
        """Close at once; what the client has not read yet is dropped."""
        places.leave(self)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self.refuse(HTTPStatus.BAD_REQUEST)

    def refuse(self, status: HTTPStatus) -> None:
        """In words that hold nothing of what the client sent."""
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(status.phrase) + 1}\r\nConnection: close\r\n\r\n"
            f"{status.phrase}\n".encode()
        )
        self.transport.close()
