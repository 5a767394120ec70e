"""What keeps the HTTP side small: few connections at a time, short lives, short requests, and no
web page from elsewhere that reads it through its visitor's browser."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import time
from http.server import ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

from alarmdigest.logs import LimitedLog

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
CONNECTION_LIFE_S = 10.0
MAX_REQUEST_BYTES = 16 * 1024

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
)


class BoundedServer(ThreadingHTTPServer):
    """A thread for each connection, at most MAX_CONNECTIONS, each for CONNECTION_LIFE_S at most."""

    daemon_threads = True
    # As many may knock at once; whoever finds this full would try again after a second only.
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        """Raises OSError."""
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._open: dict[Any, float] = {}
        self._trouble = LimitedLog(log, logging.ERROR)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            request.sendall(BUSY)  # a new socket has room for this, nobody waits here
            super().shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End whoever takes too long: a time-out of the socket begins again with every byte."""
        oldest = time.monotonic() - CONNECTION_LIFE_S
        for request, since in list(self._open.items()):
            if since < oldest:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    self._open.pop(request, None)  # it has ended meanwhile

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no error of ours; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            self._trouble("a page could not be made", reason=repr(sys.exc_info()[1]))


class BoundedLines:
    """The lines of a request, which may have MAX_REQUEST_BYTES together."""

    def __init__(self, source: BufferedIOBase) -> None:
        self._source = source
        self.left = MAX_REQUEST_BYTES

    def readline(self, limit: int) -> bytes:
        line = self._source.readline(min(limit, self.left))
        self.left -= len(line)
        return line

    def close(self) -> None:
        self._source.close()


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


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _without_port(place: str) -> str:
    if place.startswith("["):
        return place[1:].partition("]")[0]
    return place.partition(":")[0]
