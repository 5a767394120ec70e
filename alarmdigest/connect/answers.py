"""HTTP answers as ASGI messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

import orjson

Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

JSON_TYPE, TEXT_TYPE = b"application/json", b"text/plain; charset=utf-8"
# Senders come again after a while of their own; this is for who asks.
RETRY_AFTER_S = b"5"
_MORE_HEADERS = {
    HTTPStatus.UNAUTHORIZED: (b"www-authenticate", b'Bearer realm="alarmdigest"'),
    HTTPStatus.SERVICE_UNAVAILABLE: (b"retry-after", RETRY_AFTER_S),
    HTTPStatus.METHOD_NOT_ALLOWED: (b"allow", b"POST"),
}


class Answer(NamedTuple):
    status: HTTPStatus
    body: bytes
    kind: bytes = TEXT_TYPE

    async def to(self, send: Send) -> None:
        headers = [
            (b"content-type", self.kind),
            (b"content-length", b"%d" % len(self.body)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if (more := _MORE_HEADERS.get(self.status)) is not None:
            headers.append(more)
        start = {"type": "http.response.start", "status": self.status.value, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": self.body})


def in_json(value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(status, orjson.dumps(value), JSON_TYPE)


def in_text(text: str, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(status, text.encode("utf-8", "replace"))


class NotTaken(Exception):
    """A request that is not answered with 200; says why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why
