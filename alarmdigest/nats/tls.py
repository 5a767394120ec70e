"""TLS on a connection's socket: the handshake, and reading all that is there."""

from __future__ import annotations

import socket
import ssl

from alarmdigest.nats.auth import Login
from alarmdigest.nats.errors import ConnectFailed


def wrap(sock: socket.socket, login: Login, server_name: str, attempt_s: float) -> ssl.SSLSocket:
    """The socket under TLS, once the server has shown a certificate for this name. ``attempt_s``
    is how many seconds the whole attempt to connect may take.

    Raises ConnectFailed, LoginError, and OSError.
    """
    try:
        return login.tls_context().wrap_socket(sock, server_hostname=server_name)
    except TimeoutError:
        raise ConnectFailed(
            f"no TLS handshake within {attempt_s:g} s: the server hangs, "
            "or is far away (--connect-attempt-timeout)"
        ) from None
    except ssl.SSLError as error:
        if login.tls_first and error.reason == "WRONG_VERSION_NUMBER":
            raise ConnectFailed(
                "the server does not begin with TLS: leave out --tls-first (tls:// is enough)"
            ) from error
        raise


def records_into(tls: ssl.SSLSocket, room: memoryview, timeout: float) -> int:
    """All that is there: a read gives one record, and a server may put each message into its own.

    Never waits for the rest of a record; ``timeout`` is the socket's again afterwards. Raises
    SSLWantReadError when there is nothing, or OSError.
    """
    tls.settimeout(0.0)
    count = 0
    try:
        while count < len(room):
            received = tls.recv_into(room[count:])
            if received == 0:
                break
            count += received
    except OSError:  # half a record; or the end, which the next read will find again
        if count == 0:
            raise
    finally:
        tls.settimeout(timeout)
    return count
