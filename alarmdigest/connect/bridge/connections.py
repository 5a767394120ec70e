"""A connection to the bridge: so long for each request, and who its certificate says it is."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Literal

from alarmdigest.http.bounded import BoundedConnection


def connections_with(request_s: float, answer_s: float) -> type[BoundedConnection]:
    """Those that give a request ``request_s`` seconds to come in as a whole, and its answer
    ``answer_s`` to go out; between two requests they may stay idle."""

    class Connection(_TimedConnection):
        pass

    Connection.seconds = {"reading": request_s, "answering": answer_s}
    return Connection


class _TimedConnection(BoundedConnection):
    seconds: dict[str, float]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timed: Literal["", "reading", "answering"] = ""
        self._timer: asyncio.TimerHandle | None = None
        self._time("reading")
        certificate = transport.get_extra_info("peercert")
        if certificate:
            app, names = self.app, names_in(certificate)

            async def with_names(scope: Any, receive: Any, send: Any) -> None:
                await app({**scope, "extensions": {"tls": {"names": names}}}, receive, send)

            self.app = with_names

    def connection_lost(self, exc: Exception | None) -> None:
        self._time("")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._timed:  # the first bytes of the next request
            self._time("reading")
        super().data_received(data)
        if self.is_answering:
            self._time("answering")

    def on_response_complete(self) -> None:
        """What has come behind the request is looked at by now: it may be the next one."""
        super().on_response_complete()
        if self.is_answering:
            self._time("answering", anew=True)
        elif self.cycle.response_complete and not self.conn.trailing_data[0]:
            self._time("")
        else:
            self._time("reading", anew=True)

    def _time(self, what: Literal["", "reading", "answering"], *, anew: bool = False) -> None:
        """A timeout of the socket would begin again with every byte."""
        if what == self._timed and not anew:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timed = what
        self._timer = self.loop.call_later(self.seconds[what], self._is_late) if what else None

    def _is_late(self) -> None:
        """With a word for whoever is only slow to send."""
        if self._timed == "reading" and (self.cycle is None or not self.cycle.response_started):
            # Not 408: Alertmanager does not repeat what was answered with 4xx.
            self.refuse(HTTPStatus.SERVICE_UNAVAILABLE)
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
    others = [name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
    return (*subject, *others)
