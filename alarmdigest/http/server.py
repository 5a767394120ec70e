"""uvicorn in a thread of its own, which leaves signals and logging alone."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any

import uvicorn

from alarmdigest.http.bounded import BoundedConnection, places
from alarmdigest.runtime.logs import LimitedLog

log = logging.getLogger(__name__)

# So many may knock at once; whoever finds this full would try again after a second only.
BACKLOG = 1024
STOP_TIMEOUT_S = 1
HANDSHAKE_TIMEOUT_S = 5.0


class HttpThread:
    """Serves an ASGI application over HTTP/1.1 from a thread named ``http``, on a socket that
    listens already. ``every_second`` is called by the event loop. With ``tls`` over TLS.
    ``stop_timeout_s`` is what answers under way get when it stops."""

    def __init__(
        self,
        app: Any,
        listening: socket.socket,
        *,
        protocol: type[BoundedConnection],
        every_second: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
        stop_timeout_s: int = STOP_TIMEOUT_S,
    ) -> None:
        self._stop_timeout_s = stop_timeout_s
        self._socket = listening
        self._server = _Server(app, protocol, every_second, tls, stop_timeout_s)
        self._thread = Thread(target=self._serve, name="http", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Takes nothing new, and ends what is being answered in time or not at all."""
        self._server.should_exit = True
        self._thread.join(self._stop_timeout_s + STOP_TIMEOUT_S)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _serve(self) -> None:
        # A loop of our own, not asyncio.run(): that would wait for what a client holds up.
        loop = asyncio.new_event_loop()
        if self._server.config.ssl is not None:
            # uvicorn does not say it, and asyncio bears silence for a minute.
            loop.create_server = partial(  # type: ignore[method-assign]
                loop.create_server, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
        loop.set_exception_handler(self._server.on_trouble)
        try:
            loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        except Exception:
            log.exception("the HTTP side has ended")
        finally:
            self._socket.close()
            loop.close()


def listen(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


class _Server(uvicorn.Server):
    """Does nothing but HTTP/1.1 over the given sockets: no signals (it is not in the main thread),
    no logging of its own, no lifespan, no environment variables."""

    def __init__(
        self,
        app: Any,
        protocol: type[BoundedConnection],
        every_second: Callable[[], None],
        tls: ssl.SSLContext | None,
        stop_timeout_s: int,
    ) -> None:
        async def notify() -> None:
            every_second()

        config = uvicorn.Config(
            app,
            http=protocol,
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
            timeout_graceful_shutdown=stop_timeout_s,
            callback_notify=notify,
            timeout_notify=0,
        )
        config.load()
        config.ssl = tls  # made by us: uvicorn knows files only, and reads them once
        super().__init__(config)
        self._trouble = LimitedLog(log, logging.ERROR)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():  # whose queue has become as short as asyncio's
            listening.listen(BACKLOG)

    def on_trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What asyncio could not do. When there is no descriptor for one more connection, it tries
        again after a second."""
        error = context.get("exception")
        self._trouble("the HTTP side has trouble", reason=error or context.get("message"))
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError | ConnectionError):
            places.be_fewer()
