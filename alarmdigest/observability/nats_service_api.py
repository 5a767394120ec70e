"""Answers over NATS: the NATS service API (ADR-32: $SRV.PING, INFO and STATS, so that `nats micro`
lists us), and questions of operators (``queries.py``).

It has a connection and a thread of its own. On the listener's connection a question would stand
behind megabytes of events, on the publisher's an answer behind the digests that wait; and when this
one is lost, nothing else is.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from datetime import datetime, timezone
from typing import Any

import orjson

from alarmdigest import __version__
from alarmdigest._ext import frames
from alarmdigest._ext.router import EVENT, REQUEST
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.receive_buffer import ReceiveBuffer
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.observability.due_news import DueNews
from alarmdigest.observability.other_instances import Effect, OtherInstances, effect_of
from alarmdigest.observability.queries import Queries
from alarmdigest.pipeline.server_checks import stream_configs_of
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.logs import LimitedLog, Untrusted
from alarmdigest.runtime.service_thread import TICK_S, Waker
from alarmdigest.wire.queries import NAMES

log = logging.getLogger(__name__)

NAME = "alarmdigest"
VERBS = ("PING", "INFO", "STATS")
# Each verb is asked of everybody, of all services of our name, and of us alone: VERBS[n] has the
# subscriptions 3n to 3n + 2. The one behind them is for answers to our own PING.
ADDRESSES = 3
ANSWERS_SID = len(VERBS) * ADDRESSES
# From here on questions of operators, in the order of queries.NAMES.
QUERIES_SID = ANSWERS_SID + 1
# $SRV.PING.alarmdigest: when one of us asks, its question has the body of an answer of its own, so
# that those who were there before learn of it.
ASKED_OF_US_ALL = 1
ASK_EVERY_S = 60.0
# What is wrong here is about the surroundings and lasts; an answer to our PING can come from
# anybody, as often as they like.
WARN_INTERVAL_S = 60.0
OTHERS_INTERVAL_S = 600.0
# What comes of another one, and what to do.
SENTENCES: dict[Effect, str] = {
    "twice": "another alarmdigest answers the same requests, and every digest is published twice, "
    "with different ids: stop one of us, or give it other subjects;",
    "once_in_stream": "another alarmdigest answers the same requests from the same stream: the "
    "digest stream holds each digest once, as long as neither of us is further behind than its "
    "duplicate window, and a plain subscriber sees each twice, with the same id: stop one of us;",
}


class ServiceApi(threading.Thread):
    """Answers for one service, until stop(). Whatever happens to it is logged, and no more.

    On every connection, and then once a minute, it asks who else is there, and says who it is: two
    services on the same subjects both publish every digest.
    """

    def __init__(self, service: Service, reconnector: Reconnector, others: OtherInstances) -> None:
        super().__init__(name="micro", daemon=True)
        self._service = service
        self._others = others
        self._reconnector = reconnector
        self._id = secrets.token_hex(11)
        self._since = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        self._stopping = threading.Event()
        self._trouble = LimitedLog(log, logging.WARNING, interval_s=WARN_INTERVAL_S)
        self._warn_of_others = LimitedLog(log, logging.WARNING, interval_s=OTHERS_INTERVAL_S)
        self._inbox = b""
        self._ask_at = 0.0
        self._waker = Waker()
        self._news = DueNews(service.due_watch)
        service.due_watch.on_news = self._waker.wake
        self._queries = Queries(service, self._news, self._waker.wake)

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
        """Subscribe, ask who else is there, then answer. Raises ConnectionLost, ProtocolError."""
        self._subscribe(connection)
        connection.watch(self._waker.fileno())
        buffer = ReceiveBuffer()
        while not self._stopping.is_set():
            buffer.receive(connection, TICK_S)
            found, end = frames.scan(buffer.data, 0, buffer.filled)
            buffer.drop_before(connection, end)
            for kind, sid, _subject, reply, _headers, payload in found:
                if kind not in (frames.MSG, frames.HMSG):
                    self._control(connection, kind, payload)
                elif sid == ANSWERS_SID:
                    self._on_ping_answer(payload)
                elif sid >= QUERIES_SID:
                    self._on_query(connection, NAMES[sid - QUERIES_SID], payload, reply)
                elif reply:
                    if sid == ASKED_OF_US_ALL and payload:
                        self._on_ping_answer(payload)
                    answer = orjson.dumps(self._answer(VERBS[sid // ADDRESSES]))
                    _publish(connection, reply, answer)
            self._waker.clear()
            for reply, answer in self._queries.answers(connection.max_payload):
                _publish(connection, reply, answer)
            self._tell_news(connection)
            connection.keep_alive()
            self._trouble.catch_up()
            if time.monotonic() >= self._ask_at:
                self._ask_for_others(connection)

    def _subscribe(self, connection: Connection) -> None:
        subjects = [
            f"$SRV.{verb}{whom}"
            for verb in VERBS
            for whom in ("", f".{NAME}", f".{NAME}.{self._id}")
        ]
        lines = [f"SUB {subject} {sid}\r\n" for sid, subject in enumerate(subjects)]
        inbox = connection.new_inbox()
        lines.append(f"SUB {inbox} {ANSWERS_SID}\r\n")
        base = self._service.settings.query_subject
        lines += [f"SUB {base}.{name} {QUERIES_SID + n}\r\n" for n, name in enumerate(NAMES)]
        connection.send("".join(lines).encode())
        self._inbox = inbox.encode()
        self._ask_for_others(connection)

    def _ask_for_others(self, connection: Connection) -> None:
        self._ask_at = time.monotonic() + ASK_EVERY_S
        body = orjson.dumps(self._answer("PING"))
        head = b"PUB $SRV.PING.%b %b %d" % (NAME.encode(), self._inbox, len(body))
        connection.send(b"%b\r\n%b\r\n" % (head, body))

    def _control(self, connection: Connection, kind: int, text: bytes) -> None:
        refused = connection.handle(kind, text)
        if kind == frames.INFO:
            self._reconnector.learn(connection)
        if refused is not None:
            self._trouble("the server does not let us answer questions", reason=refused)

    def _on_query(self, connection: Connection, name: str, payload: bytes, reply: bytes) -> None:
        if not _is_inbox(reply, self._service.settings.inbox_prefix):
            return
        if (error := self._queries.ask(name, payload, reply)) is not None:
            _publish(connection, reply, error)

    def _tell_news(self, connection: Connection) -> None:
        """Of who became due; in a group the leader's word counts, and others say none."""
        replica, subject = self._service.replica, self._service.settings.due_subject.encode()
        told = list(self._news.messages())
        if told and (replica is None or replica.leads):
            connection.send(
                b"".join(
                    b"HPUB %b %d %d\r\n%b%b\r\n"
                    % (subject, len(headers), len(headers) + len(body), headers, body)
                    for headers, body in told
                )
            )

    # -- what we say -----------------------------------------------------------------------------

    def _answer(self, verb: str) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "type": f"io.nats.micro.v1.{verb.lower()}_response",
            "name": NAME,
            "id": self._id,
            "version": __version__,
            "metadata": self._metadata(),
        }
        if verb == "INFO":
            answer["description"] = "keeps alarms and answers requests with digests"
            answer["endpoints"] = [
                {"name": name, "subject": subject, "queue_group": "", "metadata": {}}
                for name, subject in self._endpoints().items()
            ]
        elif verb == "STATS":
            answer["started"] = self._since
            answer["endpoints"] = self._stats()
        return answer

    def _metadata(self) -> dict[str, str]:
        settings, stream_mode = self._service.settings, self._service.mode == "stream"
        return {
            "mode": self._service.mode,
            "streams": ",".join(plan.name for plan in stream_configs_of(settings))
            if stream_mode
            else "",
            "requests": settings.request_subject,
            "digests": settings.digest_subject,
            "group": settings.group,
        }

    def _endpoints(self) -> dict[str, str]:
        settings = self._service.settings
        return {"event": settings.event_subject, "request": settings.request_subject}

    def _stats(self) -> list[dict[str, Any]]:
        """Of events, the time that went into routing and merging batches, with whatever was in
        them; of requests, the time from reading each to handing its digest to the socket."""
        service = self._service
        listener, publisher = service.listener, service.publisher
        if listener is None or publisher is None:
            return []
        router, rejections, subjects = listener.router, service.rejections, self._endpoints()
        worked = [listener.routing, *(worker.merging for worker in service.workers)]
        answered = [publisher.window.answering]
        found = []
        digests = sum(sum(part.counts) for part in answered)
        for name, kind, requests, spent, timed in (
            ("event", EVENT, router.events, worked, router.events),
            # Those that had nothing due are not timed.
            ("request", REQUEST, router.requests, answered, digests),
        ):
            spent_ns = round(sum(part.sum_s for part in spent) * 1e9)
            found.append(
                {
                    "name": name,
                    "subject": subjects[name],
                    "queue_group": "",
                    "num_requests": requests,
                    "num_errors": rejections.by_kind[kind],
                    "last_error": rejections.last_reason[kind],
                    "processing_time": spent_ns,
                    "average_processing_time": spent_ns // timed if timed else 0,
                }
            )
        return found

    # -- who else is there -----------------------------------------------------------------------

    def _on_ping_answer(self, payload: bytes) -> None:
        """An answer to our PING: our own, or that of another service."""
        try:
            answer = orjson.loads(payload)
            other, theirs = str(answer["id"]), dict(answer["metadata"])
        except (ValueError, KeyError, TypeError):
            return  # anybody may answer
        mine = self._metadata()
        same = all(theirs.get(name) == mine[name] for name in ("requests", "digests"))
        if other == self._id or not same:
            return
        if mine["group"] and theirs.get("group") == mine["group"]:
            return  # a replica of ours
        mode = str(theirs.get("mode"))[:64]
        effect = effect_of(mine["mode"], mode)
        self._others.saw(other[:64], effect)
        self._warn_of_others(
            SENTENCES[effect],
            its_id=Untrusted(other[:64]),
            its_mode=Untrusted(mode),
            our_id=self._id,
        )


def _is_inbox(reply: bytes, ours: str) -> bool:
    """Whether it is a place for answers. Who asks chooses it, and must not have us publish what has
    a UserID where requests are read. ``_R_`` and ``_GR_`` are what servers make of an inbox of
    another account or behind a gateway."""
    return reply.startswith((b"_INBOX", b"_R_", b"_GR_", f"{ours}.".encode()))


def _publish(connection: Connection, subject: bytes, body: bytes) -> None:
    connection.send(b"PUB %b %d\r\n%b\r\n" % (subject, len(body), body))
