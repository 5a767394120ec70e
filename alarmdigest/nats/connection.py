"""One connection to one NATS server. The only place that knows pynats2.

From ``pynats2.NATSNoSubscribeClient`` come the URL, the options and the hooks for TLS and CONNECT.
What it does on the wire is replaced: it takes an EOF for an empty read and spins, dies of -ERR,
INFO and HMSG, speaks IPv4 only, and never learns whether the server accepted it.

A connection belongs to one thread. It is not mended when it breaks: ConnectionLost is raised, and
its owner opens the next one (``reconnect.py``).
"""

from __future__ import annotations

import json
import secrets
import select
import socket
import ssl
import time
from typing import Any

from alarmdigest import __version__
from alarmdigest._ext import frames
from alarmdigest.nats.auth import Login
from alarmdigest.nats.errors import (
    ConnectFailed,
    ConnectionLost,
    LoginError,
    LoginRefused,
    UrlError,
)
from alarmdigest.nats.pynats2_import import NATSError, NATSNoSubscribeClient
from alarmdigest.nats.tls import records_into, wrap
from alarmdigest.nats.url import DEFAULT_PORT, check_credentials, login_in, redacted

# So long the server may take nothing of what we write, however little is left of it: one that is
# busy takes some, one that hangs takes none once its buffers are full.
SEND_STALLS_AFTER_S = 1.5
SEND_SLICE_BYTES = 256 * 1024
# While an answer is awaited: after so much silence we ask whether the server is still there, and
# one that sends nothing for so long after that hangs; longer where a round trip is longer.
PING_AFTER_S = 0.4
HANGS_AFTER_S = 0.8
HANGS_AFTER_ROUND_TRIPS = 4
# poll() takes milliseconds in 32 bits.
LONGEST_WAIT_S = 3600.0
NO_LOGIN = Login()
# TCP, INFO, TLS, CONNECT and PONG together: with TLS some six round trips.
ATTEMPT_TIMEOUT_S = 5.0
# -ERR that leave the connection open (nats-server, client.go); after every other one it closes.
HARMLESS_ERRORS = (
    "permissions violation",
    "invalid subject",
    "invalid publish subject",
    "maximum subscriptions exceeded",
)


class Connection(NATSNoSubscribeClient):  # type: ignore[misc]  # pynats2 has no types
    """A connected, authenticated NATS connection.

    ``info`` is the server's latest INFO; ``pings`` and ``pongs`` count what went out and came
    back, so that "the server has taken everything before PING n" is ``pongs >= n``. ``asked`` is
    set while a ``Requests`` reads it.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        login: Login = NO_LOGIN,
        timeout: float = ATTEMPT_TIMEOUT_S,
        ping_interval: float = 20.0,
        tls_name: str | None = None,
        address: str | None = None,
        patience: float = 1.0,
    ) -> None:
        """Raises UrlError. ``timeout``, of an attempt to connect as a whole, and ``ping_interval``
        in seconds. Goes to ``address``, else to the URL's host. Silence is borne ``patience`` times
        as long as usual before the server is said to hang.

        Under TLS the server must show a certificate for ``tls_name``, else for the URL's host.

        A user or token in the URL goes before that of ``login``.
        """
        try:
            check_credentials(url)
            super().__init__(
                url,
                name=name,
                socket_timeout=timeout,
                socket_keepalive=True,
                ping_interval=ping_interval,
                tls_verify=True,
            )
            options = self._conn_options
            if not options["hostname"]:
                raise ValueError("it names no host")
            options["port"] = options["port"] or DEFAULT_PORT
        except (ValueError, NATSError) as error:
            # What stands for a port may be half of a password.
            why = "its port is no number" if "Port could not" in str(error) else str(error)
            # "from None": what the others raise may hold the URL with its password.
            raise UrlError(
                f"cannot use server URL {redacted(url)}: {why or 'this is no NATS URL'}; "
                "it should look like nats://host:4222 or tls://host:4222"
            ) from None
        options["username"], options["password"] = login_in(url)
        options["version"] = __version__
        options["tls"] = options["tls"] or login.wants_tls
        self._login = login
        self._tls_name = tls_name or options["hostname"]
        self._address = address or options["hostname"]
        self.url = redacted(url)
        self.info: dict[str, Any] = {}
        self._socket: socket.socket
        self.pings = self.pongs = 0
        self.patience, self.hung, self.asked = patience, False, False
        self.round_trip_s = 0.0  # between CONNECT and its PONG
        self._last_heard = self._last_ping = time.monotonic()

    # -- opening and closing ---------------------------------------------------------------------

    def connect(self) -> None:
        """Open it and wait until the server has accepted us. Raises ConnectFailed."""
        deadline = time.monotonic() + self._socket_options["timeout"]
        try:
            self._open_socket()
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            if self._login.tls_first:
                attempt_s = self._socket_options["timeout"]
                self._socket = wrap(self._socket, self._login, self._tls_name, attempt_s)
            early = self._read_first_info(deadline)
            wanted = self._conn_options["tls"] or self.info.get("tls_required")
            if wanted and not self._login.tls_first:
                if not (self.info.get("tls_required") or self.info.get("tls_available")):
                    raise ConnectFailed("the server offers no TLS; nats:// is without")
                if early:
                    raise ConnectFailed("the server sent data before TLS")
                attempt_s = self._socket_options["timeout"]
                self._socket = wrap(self._socket, self._login, self._tls_name, attempt_s)
            asked_at = time.monotonic()
            self._send_connect_command()
            self._await_pong(early, deadline)
            self.round_trip_s = time.monotonic() - asked_at
            self._send_stalls_s = self._at_least(SEND_STALLS_AFTER_S)
            self._socket.settimeout(self._send_stalls_s)
            # poll() instead of select(): a process with many files has numbers beyond 1024.
            self._poller = select.poll()
            self._poller.register(self._socket, select.POLLIN)
        except (OSError, ValueError, ConnectionLost, LoginError) as error:
            self.close()
            kind_of = LoginRefused if isinstance(error, LoginRefused) else ConnectFailed
            raise kind_of(f"{self.url}: {error}") from error
        self._last_heard = self._last_ping = time.monotonic()

    def close(self) -> None:
        sock = getattr(self, "_socket", None)
        if sock is not None:
            sock.close()

    @property
    def is_open(self) -> bool:
        """Until close(); the server may have ended it without our having noticed."""
        sock = getattr(self, "_socket", None)
        return sock is not None and sock.fileno() >= 0

    def new_inbox(self) -> str:
        """A subject for answers that nobody else has."""
        return f"{self._login.inbox_prefix}.{secrets.token_hex(11)}"

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes as one message, headers included."""
        return int(self.info.get("max_payload", 1024 * 1024))

    def watch(self, fd: int) -> None:
        """Have ``receive_into`` end its waiting also when this file descriptor can be read."""
        self._poller.register(fd, select.POLLIN)

    @property
    def version(self) -> str:
        """Of the server, as it writes it."""
        return str(self.info.get("version", "unknown"))

    @property
    def lame_duck(self) -> bool:
        """The server has announced that it is going away."""
        return bool(self.info.get("ldm"))

    def _open_socket(self) -> None:
        options = self._conn_options
        # create_connection tries every address of the name, IPv6 and IPv4.
        sock = socket.create_connection(
            (self._address, options["port"]), timeout=self._socket_options["timeout"]
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = sock

    def _send_connect_command(self) -> None:
        if not self.info.get("headers"):
            raise ConnectFailed("the server knows no headers; nats-server 2.2 or newer is needed")
        options = self._conn_options
        connect = {
            "name": options["name"],
            "lang": "python",
            "version": options["version"],
            "protocol": 1,
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
            "echo": True,
            "tls_required": options["tls"],
        }
        if options["password"]:
            connect["user"], connect["pass"] = options["username"], options["password"]
        elif options["username"]:
            connect["auth_token"] = options["username"]
        else:
            connect |= self._login.connect_fields(str(self.info.get("nonce", "")))
        # CONNECT alone is never answered: only the PONG shows that we were let in.
        self._socket.sendall(b"CONNECT " + json.dumps(connect).encode() + b"\r\nPING\r\n")

    def _read_first_info(self, deadline: float) -> bytes:
        """Read INFO; returns what came after it."""
        received = bytearray()
        while b"\r\n" not in received:
            try:
                received += self._receive_some(deadline)
            except TimeoutError:
                # Nothing tells the two apart.
                waits = ", or waits for TLS (one with handshake_first needs --tls-first)"
                raise ConnectFailed(
                    f"the server said nothing within {self._socket_options['timeout']:g} s: "
                    f"it hangs{'' if self._login.tls_first else waits}"
                ) from None
            if len(received) > 1024 * 1024:
                raise ConnectFailed("what answers there does not speak NATS")
        end = received.index(b"\r\n") + 2
        try:
            [(kind, *_, text)], _position = frames.scan(received, 0, end)
        except ValueError:
            kind = 0
        if kind != frames.INFO:
            raise ConnectFailed("what answers there does not speak NATS")
        self._take_info(text)
        return bytes(received[end:])

    def _await_pong(self, early: bytes, deadline: float) -> None:
        received = bytearray(early)
        accepted = False
        while True:
            found, position = frames.scan(received, 0, len(received))
            del received[:position]
            for kind, *_, text in found:
                if kind == frames.ERR:
                    said = error_text(text)
                    kind_of = LoginRefused if "Authorization" in said else ConnectFailed
                    raise kind_of(f"the server refused us: {said}")
                if kind == frames.PONG:
                    accepted = True
                else:
                    self.handle(kind, text)
            # Behind its first PONG the server may send another INFO: not to be lost, nor cut.
            if accepted and not received:
                return
            received += self._receive_some(deadline)

    def _receive_some(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        self._socket.settimeout(left)
        data: bytes = self._socket.recv(65536)
        if not data:
            raise ConnectFailed("the server closed the connection")
        return data

    # -- in use ----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write all of it. Raises ConnectionLost; how much arrived is unknown then."""
        try:
            # Bit by bit: the time limit is for each, so a slow line is not taken for a dead one.
            with memoryview(data) as whole:
                sent = 0
                while sent < len(data):
                    with whole[sent : sent + SEND_SLICE_BYTES] as piece:
                        sent += self._socket.send(piece)
        except TimeoutError:
            raise self.hangs(self._send_stalls_s) from None
        except OSError as error:
            raise ConnectionLost(f"{self.url}: {error or type(error).__name__}") from error

    def send_ping(self) -> int:
        """Send a PING; returns its number, for comparison with ``pongs``."""
        self.count_ping()
        self.send(b"PING\r\n")
        return self.pings

    def count_ping(self) -> int:
        """Note a PING that the caller writes itself, after its own data; returns its number."""
        self.pings += 1
        self._last_ping = time.monotonic()
        return self.pings

    def receive_into(self, buffer: bytearray, start: int, timeout: float) -> int:
        """Read what is there into ``buffer[start:]``, waiting up to ``timeout`` seconds for it.

        Returns the number of bytes, 0 when nothing came. Raises ConnectionLost.
        """
        tls = self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        try:
            pending = tls is not None and tls.pending()
            if not pending and not self._readable(timeout):
                return 0
            with memoryview(buffer) as whole, whole[start:] as room:
                count: int
                if tls is None:
                    count = self._socket.recv_into(room)
                else:
                    count = records_into(tls, room, self._send_stalls_s)
        except ssl.SSLWantReadError:  # half a TLS record
            return 0
        except OSError as error:
            raise ConnectionLost(f"{self.url}: {error or type(error).__name__}") from error
        if count == 0:
            raise ConnectionLost(f"{self.url}: the server closed the connection")
        self._last_heard = time.monotonic()
        return count

    def _readable(self, timeout: float) -> bool:
        ready = self._poller.poll(min(timeout, LONGEST_WAIT_S) * 1000)
        return any(fd == self._socket.fileno() for fd, _event in ready)

    def handle(self, kind: int, text: bytes) -> str | None:
        """Answer a frame that is no message. Returns the text of a harmless -ERR.

        Raises ConnectionLost for an -ERR after which the server closes the connection.
        """
        if kind == frames.PING:
            self.send(b"PONG\r\n")
        elif kind == frames.PONG:
            self.pongs += 1
        elif kind == frames.INFO:
            self._take_info(text)
        elif kind == frames.ERR:
            message = error_text(text)
            if not message.lower().startswith(HARMLESS_ERRORS):
                raise ConnectionLost(f"{self.url}: the server said: {message}")
            return message
        return None

    def keep_alive(self) -> None:
        """Call it at least every second: pings when it is time. Raises ConnectionLost.

        Two intervals without a byte from the server, with a PING on its way, mean it is dead.
        """
        now = time.monotonic()
        if self.pings > self.pongs and now - self._last_heard > 2 * self._ping_interval:
            raise ConnectionLost(f"{self.url}: no answer to our pings")
        if now - self._last_ping >= self._ping_interval:
            self.send_ping()

    def still_there(self) -> None:
        """Call it after each read while an answer is awaited. Raises ConnectionLost as soon as the
        server, asked for it, has given no sign of life for a while: it hangs, or is cut off."""
        now = time.monotonic()
        if self.pings <= self.pongs:
            if now - self._last_heard > PING_AFTER_S:
                self.send_ping()
            return
        silent_s = now - max(self._last_heard, self._last_ping)
        if silent_s > self._at_least(HANGS_AFTER_S):
            raise self.hangs(silent_s)

    def hangs(self, silent_s: float) -> ConnectionLost:
        """What to raise when the server was asked for a sign of life and has given none."""
        self.hung = True
        return ConnectionLost(f"{self.url}: no sign of life for {silent_s:.1f} s: it hangs")

    def _at_least(self, seconds: float) -> float:
        return max(seconds * self.patience, HANGS_AFTER_ROUND_TRIPS * self.round_trip_s)

    def _take_info(self, text: bytes) -> None:
        try:
            info = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConnectionLost(f"{self.url}: unreadable INFO: {error}") from error
        size = info.get("max_payload", 1) if isinstance(info, dict) else None
        if not (isinstance(size, int) and 0 < size < 1 << 31):
            raise ConnectionLost(f"{self.url}: unreadable INFO: not as a NATS server writes it")
        self.info.update(info)


def error_text(text: bytes) -> str:
    """The message of an -ERR, without its quotes."""
    return text.decode("utf-8", "replace").strip("'")
