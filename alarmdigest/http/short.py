"""Connections for probes and scrapers: one request each, and not for long."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from alarmdigest.http.bounded import BoundedConnection

CONNECTION_LIFE_S = 10.0
MAX_REQUEST_BYTES = 16 * 1024


class ShortConnection(BoundedConnection):
    """One that lives for CONNECTION_LIFE_S at most, and asks once: a probe is answered within
    milliseconds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # A timeout of the socket would begin again with every byte.
        self._end_of_life = self.loop.call_later(CONNECTION_LIFE_S, self.end)
        self._received = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_life.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is not None:  # one request each: whatever comes behind it is not for us
            return
        self._received += len(data)
        if self._received > MAX_REQUEST_BYTES:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            super().data_received(data)
