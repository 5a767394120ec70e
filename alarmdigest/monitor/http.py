"""The HTTP side: /metrics, /healthz and /readyz, GET only, nothing of a user's data."""

from __future__ import annotations

import logging
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from alarmdigest.monitor.metrics import registry_of
from alarmdigest.service import Service
from alarmdigest.settings import HttpAddress, SettingsError

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 10


class MonitorServer:
    """Serves one service from a thread of its own, named ``http``."""

    def __init__(self, service: Service, address: HttpAddress) -> None:
        """Raises SettingsError when the address cannot be had and may not be another."""
        host, port, may_move = address
        handler = _handler_for(service)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server_class = type("_Server", (ThreadingHTTPServer,), {"address_family": family})
        try:
            self._server = server_class((host, port), handler)
        except OSError as error:
            if not may_move:
                raise SettingsError(
                    f"--http {host}:{port}: {error.strerror}; choose another port, or --http off"
                ) from error
            self._server = server_class((host, 0), handler)
            log.warning("port %d is taken, HTTP moves to another one", port)
        self._server.daemon_threads = True
        self.host, self.port = host, self._server.server_address[1]
        self._thread = Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.2},
            name="http",
            daemon=True,
        )

    def start(self) -> None:
        self._thread.start()
        # Without its paths: scripts wait for the word "ready", and /readyz would be it too early.
        log.info("http listening on=http://%s:%d", self.host, self.port)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_for(service: Service) -> type[BaseHTTPRequestHandler]:
    registry = registry_of(service)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = REQUEST_TIMEOUT_S

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)
            elif path == "/healthz":
                self._answer_reasons(service.illnesses())
            elif path == "/readyz":
                self._answer_reasons(service.unreadiness())
            else:
                self._answer(404, b"only /metrics, /healthz and /readyz are here\n", "text/plain")

        def _answer_reasons(self, reasons: list[str]) -> None:
            text = "".join(reason + "\n" for reason in reasons) or "ok\n"
            self._answer(503 if reasons else 200, text.encode(), "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def version_string(self) -> str:
            return "alarmdigest"

        def log_message(self, format: str, *args: Any) -> None:
            log.debug("http %s", format % args)

    return Handler
