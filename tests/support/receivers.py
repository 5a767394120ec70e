"""Who gets messages: a mail server and a web server on the loopback, as bad as a test likes."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import socket
import threading
from collections.abc import Callable
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from support.nats_server import HOST, free_port


class MailServer:
    """Keeps what it takes. ``refuse`` is asked for each recipient and gives an answer such as
    ``550 no such user``, or nothing. ``delay_s`` is how long it takes for a mail once it has it.
    ``forgetful`` mails are taken and then the connection is cut before it says so."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.refuse: Callable[[str], str] = lambda _address: ""
        self.delay_s = 0.0
        self.forgetful = 0
        self.attempts = 0
        self._controller: Controller | None = None

    # -- as aiosmtpd calls it

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        self.attempts += 1
        if answer := self.refuse(address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        await asyncio.sleep(self.delay_s)
        content = envelope.content
        assert isinstance(content, bytes)
        mail = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(list(envelope.rcpt_tos))
        if self.forgetful > 0:
            self.forgetful -= 1
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
        return "250 taken"

    # -- for tests

    def start(self) -> None:
        self._controller = Controller(self, hostname=HOST, port=self.port)
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def __enter__(self) -> MailServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def url(self, to: str = "{mail}") -> str:
        return f"mailto://{HOST}:{self.port}/?from=alarms@example.com&to={to}&smtp={HOST}"

    def texts(self, to: str = "") -> list[str]:
        """The plain texts, of those to one recipient or of all."""
        return [
            text_of(mail)
            for mail, recipients in zip(self.mails, self.recipients, strict=False)
            if not to or to in recipients
        ]


def text_of(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


class WebServer:
    """Keeps the JSON that is posted, with its path. ``answer`` decides for each path: a status, or
    ``hang``, ``half`` (of an answer) or ``gone`` (the connection is cut, though it was taken)."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.tried: list[str] = []
        self.answer: Callable[[str], int | str] = lambda _path: 200
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.tried.append(self.path)
                answer = outer.answer(self.path)
                if answer == "hang":
                    self._trickle()
                    return
                if answer in (200, "half", "gone"):
                    outer.taken.append((self.path, json.loads(body)))
                if answer == "gone":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(200 if answer == "half" else int(answer))
                self.send_header("Content-Length", "1000" if answer == "half" else "0")
                self.end_headers()
                if answer == "half":
                    self.wfile.write(b"half")
                    self.close_connection = True

            def _trickle(self) -> None:
                """A header now and then: no time limit of a single step is ever reached."""
                self.close_connection = True
                try:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    while not outer.ended.wait(0.2) and outer.answer(self.path) == "hang":
                        self.wfile.write(b"X-Still-There: yes\r\n")
                        self.wfile.flush()
                except OSError:
                    pass

            def log_message(self, *_args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])

    def url(self, path: str = "{UserID}") -> str:
        return f"json://{HOST}:{self.port}/{path}"

    def of(self, path: str) -> list[str]:
        """The messages that were taken for this path, in order."""
        return [
            str(body["message"]) for where, body in list(self.taken) if where.strip("/") == path
        ]

    def __enter__(self) -> WebServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
