"""A connection to the bridge: so long for each request, and who its certificate says it is."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from alarmdigest.http.bounded import BoundedConnection


def connections_with(timeout_s: float) -> type[BoundedConnection]:
    """Those that give a request ``timeout_s`` seconds to come in as a whole, and stay open for the
    next one; a new one has as long for its first."""

    class Connection(_RequestTimeout):
        request_s = timeout_s

    return Connection


class _RequestTimeout(BoundedConnection):
    request_s: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_request()
        certificate = transport.get_extra_info("peercert")
        if certificate:
            app, names = self.app, names_in(certificate)

            async def with_names(scope: Any, receive: Any, send: Any) -> None:
                await app({**scope, "extensions": {"tls": {"names": names}}}, receive, send)

            self.app = with_names

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._late.cancelled() and not self.is_answering:
            self._begin_request()
        super().data_received(data)
        if self.is_answering:
            self._late.cancel()

    def _begin_request(self) -> None:
        self._late = self.loop.call_later(self.request_s, self._is_late)

    def _is_late(self) -> None:
        """With a word for whoever is only slow."""
        if self.cycle is None or not self.cycle.response_started:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        # close() would wait for a client that does not read.
        self.loop.call_soon(self.end)


def names_in(certificate: dict[str, Any]) -> tuple[str, ...]:
    """The common names and the DNS names of a peer's certificate, as ``ssl`` gives it."""
    subject = [
        value
        for part in certificate.get("subject", ())
        for kind, value in part
        if kind == "commonName"
    ]
    return (
        *subject,
        *(name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"),
    )
