"""The HTTP side: uvicorn in a thread of its own, which leaves signals and logging alone."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from threading import Thread
from typing import Any

import uvicorn

from alarmdigest.observability.guard import BoundedConnection, places
from alarmdigest.observability.metrics import registry_of
from alarmdigest.observability.other_instances import OtherInstances
from alarmdigest.observability.pages import Pages
from alarmdigest.observability.status import Status
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.settings import HttpAddress, SettingsError

log = logging.getLogger(__name__)

# So many may knock at once; whoever finds this full would try again after a second only.
KNOCKING = 1024
STOP_TIMEOUT_S = 1


class HttpServer:
    """Serves one service from a thread named ``http``."""

    def __init__(self, service: Service, others: OtherInstances, address: HttpAddress) -> None:
        """Raises SettingsError when the address cannot be had and may not be another."""
        host, port, may_move = address
        try:
            self._socket = _listen(host, port)
        except OSError as error:
            if not may_move:
                place = address.url.removeprefix("http://")
                raise SettingsError(
                    f"--http {place}: {error.strerror}; choose another port, or --http off"
                ) from error
            self._socket = _listen(host, 0)
            log.warning("port %d is taken, HTTP moves to another one", port)
        self.url = HttpAddress(host, self._socket.getsockname()[1]).url
        status = Status(service, others)
        pages = Pages(service, registry_of(service, others), status, host)
        self._server = _Server(pages, status.remember)
        self._thread = Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()
        # Without its paths: scripts wait for the word "ready", and /readyz would be it too early.
        log.info("http listening%s", Fields(on=self.url))

    def stop(self) -> None:
        """Ends what is being answered within STOP_TIMEOUT_S."""
        self._server.should_exit = True
        self._thread.join(2 * STOP_TIMEOUT_S)

    def _serve(self) -> None:
        # A loop of our own, not asyncio.run(): that would wait for what a client holds up.
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(self._server.on_trouble)
        try:
            loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        except Exception:
            log.exception("the HTTP side has ended; nothing else depends on it")
        finally:
            self._socket.close()
            loop.close()


def _listen(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(KNOCKING)
    except OSError:
        listening.close()
        raise
    return listening


class _Server(uvicorn.Server):
    """Does nothing but HTTP/1.1 over the given sockets: no signals (it is not in the main thread),
    no logging of its own, no lifespan, no environment variables."""

    def __init__(self, app: Any, remember: Callable[[], None]) -> None:
        async def every_second() -> None:
            remember()

        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedConnection,
                ws="none",
                loop="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                # Above all levels: a stranger's nonsense is no news, and failures we log ourselves.
                log_level=logging.CRITICAL + 1,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                workers=1,
                # asyncio accepts so many at once before it lets any of them in: each newcomer is to
                # be counted before the next one takes a descriptor.
                backlog=1,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
                callback_notify=every_second,
                timeout_notify=0,
            )
        )
        self._trouble = LimitedLog(log, logging.ERROR)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():  # whose queue has become as short as asyncio's
            listening.listen(KNOCKING)

    def on_trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio could not do. When there is no descriptor for one more connection, it tries
        again after a second."""
        error = context.get("exception")
        self._trouble("the HTTP side has trouble", reason=error or context.get("message"))
        if isinstance(error, OSError):
            places.be_fewer()
