"""What the bridge serves besides webhooks: health, and its metrics."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from alarmdigest.connect.bridge.answers import Answer, in_text
from alarmdigest.connect.bridge.senders import SENDERS


class Pages:
    """``liveness`` and ``readiness`` give sentences about what is wrong, none when all is well."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        liveness: Callable[[], list[str]],
        readiness: Callable[[], list[str]],
    ) -> None:
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
        known = ", ".join(f"/{one}" for one in (*SENDERS, *self._pages))
        return in_text(f"there are {known}\n", HTTPStatus.NOT_FOUND)


def _health(failures: list[str]) -> Answer:
    if failures:
        return in_text("\n".join(failures) + "\n", HTTPStatus.SERVICE_UNAVAILABLE)
    return in_text("ok\n")
