"""What is answered over HTTP, as an ASGI application. GET only, and nothing of a user's data but,
with ``--show-users``, who waits for what."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeAlias

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from alarmdigest.observability import page
from alarmdigest.observability.guard import may_ask_as
from alarmdigest.observability.health import liveness_failures, readiness_failures
from alarmdigest.observability.status import Status
from alarmdigest.observability.user_listing import longest_waiting
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.logs import Fields, LimitedLog, Untrusted

log = logging.getLogger(__name__)

Send: TypeAlias = "Callable[[dict[str, Any]], Awaitable[None]]"
Answer: TypeAlias = "tuple[int, bytes, str]"
"""Status, body, content type."""

TEXT = "text/plain; charset=utf-8"
HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in {
        # data: is the empty icon, without which browsers would ask for one.
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
        # One request each: an idle connection would take one of a few places.
        "Connection": "close",
        "Server": "alarmdigest",
    }.items()
]


class Pages:
    """Answers the requests for one service.

    Probes are answered by the event loop itself. What takes longer is made in a thread of its own,
    so that no probe waits for it.
    """

    def __init__(
        self, service: Service, registry: CollectorRegistry, status: Status, served_at: str
    ) -> None:
        self._service = service
        self._served_at = served_at
        self._trouble = LimitedLog(log, logging.ERROR)
        printer = Printer()
        self._made = {
            "/metrics": SharedPage(printer, lambda: generate_latest(registry)),
            "/status.json": SharedPage(printer, lambda: orjson.dumps(status.look())),
        }
        if service.settings.show_users:
            # By another thread: workers that are busy must not hold up /metrics.
            self._made["/users.json"] = SharedPage(
                Printer(), lambda: orjson.dumps(longest_waiting(service))
            )

    async def __call__(self, scope: dict[str, Any], _receive: object, send: Send) -> None:
        code, body, content_type = await self._answer(scope)
        log.debug(
            "http%s",
            Fields(method=Untrusted(scope["method"]), path=Untrusted(scope["path"]), status=code),
        )
        headers = [
            *HEADERS,
            (b"content-type", content_type.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: dict[str, Any]) -> Answer:
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        if not may_ask_as(_host(scope), self._served_at):
            return _plain(HTTPStatus.MISDIRECTED_REQUEST)
        try:
            if path == "/healthz":
                return _reasons(liveness_failures(self._service))
            if path == "/readyz":
                return _reasons(readiness_failures(self._service))
            if path == "/metrics":
                return 200, await self._made[path].get(), CONTENT_TYPE_PLAIN_0_0_4
            if path in self._made:
                return 200, await self._made[path].get(), "application/json"
        except Exception as error:
            self._trouble("a page could not be made", reason=repr(error))
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        if path in page.FILES:
            return 200, *page.FILES[path]
        text = b"only /, /status.json, /metrics, /healthz and /readyz are here"
        text += b" (and /users.json with --show-users)\n"
        return HTTPStatus.NOT_FOUND, text, TEXT


def _host(scope: dict[str, Any]) -> str | None:
    for name, value in scope["headers"]:
        if name == b"host":
            return str(value.decode("latin-1"))
    return None


def _plain(status: HTTPStatus) -> Answer:
    return status, status.phrase.encode() + b"\n", TEXT


def _reasons(reasons: list[str]) -> Answer:
    text = "".join(reason + "\n" for reason in reasons) or "ok\n"
    return 503 if reasons else 200, text.encode("utf-8", "replace"), TEXT


class Printer:
    """Makes pages one after the other in a thread named ``http-pages``.

    Not an executor: the interpreter would wait at its end for a page that waits for a disk.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[
            tuple[Callable[[], bytes], asyncio.AbstractEventLoop, asyncio.Future[bytes]]
        ] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="http-pages", daemon=True).start()

    async def print(self, make: Callable[[], bytes]) -> bytes:
        """What ``make`` returns, or raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bytes] = loop.create_future()
        self._orders.put((make, loop, done))
        return await done

    def _work(self) -> None:
        while True:
            make, loop, done = self._orders.get()
            try:
                body, error = make(), None
            except Exception as failed:
                body, error = b"", failed
            try:
                loop.call_soon_threadsafe(_settle, done, body, error)
            except RuntimeError:  # the loop was closed meanwhile: nobody waits any more
                return


def _settle(done: asyncio.Future[bytes], body: bytes, error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(body)
    else:
        done.set_exception(error)


class SharedPage:
    """A page that is made once for all who ask before its making begins, so that a crowd of a
    thousand costs two pages and nobody is shown one from before the question."""

    def __init__(self, printer: Printer, make: Callable[[], bytes]) -> None:
        self._printer = printer
        self._make = make
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[bytes] | None = None

    async def get(self) -> bytes:
        """Raises whatever its making raised."""
        if self._next is None:
            self._next = asyncio.create_task(self._print())
        # Whoever goes away takes it from nobody else.
        return await asyncio.shield(self._next)

    async def _print(self) -> bytes:
        async with self._lock:
            self._next = None
            return await self._printer.print(self._make)
