"""The HTTP side: metrics, health and the page. GET only, nothing of a user's data."""

from __future__ import annotations

import logging
from http.server import BaseHTTPRequestHandler
from threading import Thread
from typing import Any

import orjson
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from alarmdigest.logs import Fields
from alarmdigest.monitor import page
from alarmdigest.monitor.guard import CONNECTION_LIFE_S, BoundedLines, BoundedServer, may_ask_as
from alarmdigest.monitor.metrics import registry_of
from alarmdigest.monitor.status import Status
from alarmdigest.service import Service
from alarmdigest.settings import HttpAddress, SettingsError

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
HEADERS = {
    # data: is the empty icon, without which browsers would ask for one.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # One request each: an idle connection would keep a thread, and one of a few places.
    "Connection": "close",
}


class MonitorServer:
    """Serves one service from a thread of its own, named ``http``."""

    def __init__(self, service: Service, address: HttpAddress) -> None:
        """Raises SettingsError when the address cannot be had and may not be another."""
        host, port, may_move = address
        status = Status(service)
        handler = _handler_for(service, status, host)
        try:
            self._server = _Server((host, port), handler, status)
        except OSError as error:
            if not may_move:
                place = address.url.removeprefix("http://")
                raise SettingsError(
                    f"--http {place}: {error.strerror}; choose another port, or --http off"
                ) from error
            self._server = _Server((host, 0), handler, status)
            log.warning("port %d is taken, HTTP moves to another one", port)
        self.url = HttpAddress(host, self._server.server_address[1]).url
        self._thread = Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.2},
            name="http",
            daemon=True,
        )

    def start(self) -> None:
        self._thread.start()
        # Without its paths: scripts wait for the word "ready", and /readyz would be it too early.
        log.info("http listening%s", Fields(on=self.url))

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(BoundedServer):
    def __init__(self, address: tuple[str, int], handler: Any, status: Status) -> None:
        super().__init__(address, handler)
        self._status = status

    def service_actions(self) -> None:
        super().service_actions()
        self._status.remember()


def _handler_for(service: Service, status: Status, served_at: str) -> type[BaseHTTPRequestHandler]:
    registry = registry_of(service)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = CONNECTION_LIFE_S

        def setup(self) -> None:
            super().setup()
            self.lines = BoundedLines(self.rfile)
            self.rfile = self.lines  # type: ignore[assignment]  # only its lines are read

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if self.lines.left == 0:
                self.send_error(431)
            elif not may_ask_as(self.headers["Host"], served_at):
                self.send_error(421)
            elif path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)
            elif path == "/healthz":
                self._answer_reasons(service.illnesses())
            elif path == "/readyz":
                self._answer_reasons(service.unreadiness())
            elif path == "/status.json":
                self._answer(200, orjson.dumps(status.look()), "application/json")
            elif path in page.FILES:
                self._answer(200, *page.FILES[path])
            else:
                self._answer(
                    404, b"only /, /status.json, /metrics, /healthz and /readyz are here\n", TEXT
                )

        def send_error(
            self, code: int, message: str | None = None, explain: str | None = None
        ) -> None:
            """In plain text, and without what the client sent; a method that we do not have
            is 501 for the base class."""
            code = 405 if code == 501 else code
            self._answer(code, self.responses[code][0].encode() + b"\n", TEXT)

        def _answer_reasons(self, reasons: list[str]) -> None:
            text = "".join(reason + "\n" for reason in reasons) or "ok\n"
            self._answer(503 if reasons else 200, text.encode(), TEXT)

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in HEADERS.items():
                self.send_header(name, value)
            if status == 405:
                self.send_header("Allow", "GET, HEAD")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def version_string(self) -> str:
            return "alarmdigest"

        def log_message(self, format: str, *args: Any) -> None:
            log.debug("http %s", format % args)

    return Handler
