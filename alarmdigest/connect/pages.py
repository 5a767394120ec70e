"""Health and metrics of a process that connects the service to something, over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from alarmdigest.connect.answers import Answer, Send, in_text


class Pages:
    """``liveness`` and ``readiness`` give sentences about what is wrong, none when all is well.
    ``others`` are paths that somebody else serves."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        liveness: Callable[[], list[str]],
        readiness: Callable[[], list[str]],
        others: Iterable[str] = (),
    ) -> None:
        self._others = tuple(others)
        self._pages = {
            "healthz": lambda: _health(liveness()),
            "readyz": lambda: _health([*liveness(), *readiness()]),
            "metrics": lambda: Answer(
                HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST.encode()
            ),
        }

    def answer(self, method: str, name: str) -> Answer:
        page = self._pages.get(name)
        if page is not None and method in ("GET", "HEAD"):
            return page()
        known = ", ".join(f"/{one}" for one in (*self._others, *self._pages))
        return in_text(f"there are {known}\n", HTTPStatus.NOT_FOUND)

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """As an ASGI application of its own."""
        await self.answer(scope["method"], scope["path"].strip("/")).to(send)


def _health(failures: list[str]) -> Answer:
    if failures:
        return in_text("\n".join(failures) + "\n", HTTPStatus.SERVICE_UNAVAILABLE)
    return in_text("ok\n")
