"""A process that answers the NATS service API (ADR-32: $SRV.PING, INFO and STATS, so that
`nats micro` lists it), on a connection and a thread of their own.

On a connection that others use, a question would stand behind megabytes of events, or an answer
behind the digests that wait; and when this one is lost, nothing else is.
"""

from __future__ import annotations

import logging
import secrets
import threading
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import orjson

from alarmdigest._ext import frames
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.receive_buffer import ReceiveBuffer
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.subjects import meets_base
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.runtime.service_thread import TICK_S
from alarmdigest.wire import service_api
from alarmdigest.wire.service_api import ADDRESSES, VERBS

log = logging.getLogger(__name__)

# The first subscription that is not of the service API.
FREE_SID = len(VERBS) * ADDRESSES
# What is wrong here is about the surroundings and lasts.
WARN_INTERVAL_S = 60.0


class ServiceAnswers(threading.Thread):
    """Answers until stop(). Whatever happens to it is logged, and no more.

    A subclass says what is answered (``_metadata``, ``_endpoints``, ``_stats``). It may use the
    connection for more: ``_begin`` subscribes, to numbers from FREE_SID on; ``_on_message`` gets
    what comes, ``_each_round`` is called after each read, and ten times a second where nothing
    comes. They may raise NatsError: then the next connection is opened.
    """

    def __init__(
        self,
        reconnector: Reconnector,
        *,
        name: str,
        description: str,
        inbox_prefix: str,
        not_to: Sequence[str],
    ) -> None:
        """``name`` is the service's. No answer goes to the subjects ``not_to``, or below them.
        ``inbox_prefix`` is that of our own inboxes."""
        super().__init__(name="micro", daemon=True)
        self._reconnector = reconnector
        self._service_name = name
        self._description = description
        self._inbox_prefix = inbox_prefix
        self._not_to = tuple(not_to)
        self._id = secrets.token_hex(11)
        self._since = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        self._stopping = threading.Event()
        self._trouble = LimitedLog(log, logging.WARNING, interval_s=WARN_INTERVAL_S)
        self._made: dict[str, bytes] = {}

    @abstractmethod
    def _metadata(self) -> dict[str, str]: ...

    @abstractmethod
    def _endpoints(self) -> dict[str, str]:
        """Their subjects, by name."""

    @abstractmethod
    def _stats(self) -> list[dict[str, Any]]: ...

    def start(self) -> None:
        try:
            super().start()
        except RuntimeError as error:  # no thread is left; what matters more will say so
            self._trouble("the service API cannot be started", reason=error)

    def stop(self) -> None:
        """Does not wait: a drain must not depend on it."""
        self._stopping.set()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                connection = self._reconnector.connect_with_backoff(
                    lambda: not self._stopping.is_set()
                )
                if connection is None:
                    return
                try:
                    self._serve(connection)
                except (NatsError, frames.ProtocolError) as lost:
                    if not self._stopping.is_set():  # else an embedded server has ended before us
                        self._trouble("the service API has lost its connection", reason=lost)
                finally:
                    connection.close()
        except Exception:
            log.exception("the service API has ended; nothing else depends on it")

    def _serve(self, connection: Connection) -> None:
        """Subscribe, then answer. Raises ConnectionLost, ProtocolError."""
        subjects = service_api.subjects(self._service_name, self._id)
        lines = [f"SUB {subject} {sid}\r\n" for sid, subject in enumerate(subjects)]
        connection.send("".join(lines).encode())
        self._begin(connection)
        buffer = ReceiveBuffer()
        while not self._stopping.is_set():
            buffer.receive(connection, TICK_S)
            found, end = frames.scan(buffer.data, 0, buffer.filled)
            buffer.drop_before(connection, end)
            self._made.clear()
            for kind, sid, _subject, reply, _headers, payload in found:
                if kind in (frames.MSG, frames.HMSG):
                    self._on_message(connection, sid, reply, payload)
                    continue
                refused = connection.handle(kind, payload)
                if kind == frames.INFO:
                    self._reconnector.learn(connection)
                if refused is not None:
                    self._on_refused(refused)
            self._each_round(connection)
            connection.keep_alive()
            self._trouble.catch_up()

    def _begin(self, connection: Connection) -> None:
        """Subscribe to more."""

    def _each_round(self, connection: Connection) -> None:
        """Do more."""

    def _on_message(self, connection: Connection, sid: int, reply: bytes, payload: bytes) -> None:
        if sid >= FREE_SID or not self._may_answer(reply):
            return
        verb = VERBS[sid // ADDRESSES]
        if verb not in self._made:  # once for all who have asked at the same time
            self._made[verb] = orjson.dumps(self._answer(verb))
        publish(connection, reply, self._made[verb])

    def _on_refused(self, refused: str) -> None:
        self._trouble("the server does not let us answer questions", reason=refused)

    def _answer(self, verb: str) -> dict[str, Any]:
        answer = service_api.head(
            verb, name=self._service_name, own_id=self._id, metadata=self._metadata()
        )
        if verb == "INFO":
            answer["description"] = self._description
            answer["endpoints"] = [
                service_api.endpoint(name, subject, metadata={})
                for name, subject in self._endpoints().items()
            ]
        elif verb == "STATS":
            answer["started"] = self._since
            answer["endpoints"] = self._stats()
        return answer

    def _may_answer(self, reply: bytes) -> bool:
        """Who asks chooses the place, and must not have us publish where he may not himself: in a
        bucket, an input of the service, or JetStream's own subjects."""
        place = reply.decode("utf-8", "replace")
        return bool(place) and not (
            place.startswith("$") or any(meets_base(one, place) for one in self._not_to)
        )

    def _is_inbox(self, reply: bytes) -> bool:
        """Whether it is a place for answers that hold ids. ``_R_`` and ``_GR_`` are what servers
        make of an inbox of another account or behind a gateway."""
        return reply.startswith((b"_INBOX", b"_R_", b"_GR_", f"{self._inbox_prefix}.".encode()))


def publish(connection: Connection, subject: bytes, body: bytes) -> None:
    connection.send(b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body))
