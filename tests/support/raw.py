"""A publisher that does nothing but write: as fast as any that a server may meet."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit


def frames_of(messages: Iterable[tuple[str, bytes]]) -> bytes:
    """``(subject, body)`` pairs as PUB frames."""
    return b"".join(
        b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body) for subject, body in messages
    )


def publish_raw(url: str, frames: bytes, timeout: float = 60.0) -> None:
    """Write PUB frames on a connection of their own; wait until the server has taken them all."""
    place = urlsplit(url)
    assert place.port
    with socket.create_connection((place.hostname, place.port), timeout) as sock:
        sock.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n' + frames + b"PING\r\n")
        said = b""
        while b"PONG\r\n" not in said:
            received = sock.recv(65536)
            said += received
            assert received, "the server closed the connection"
            assert b"-ERR" not in said, said[-200:]
