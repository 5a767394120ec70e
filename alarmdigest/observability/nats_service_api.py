"""Answers over NATS, on one connection of their own: the NATS service API
(``nats/service_answers.py``), and questions of operators (``queries.py``).

It also asks who else is there: other services on our subjects, and the processes on the way of an
alarm (``way.py``).
"""

from __future__ import annotations

import logging
import time
from typing import Any

import orjson

from alarmdigest._ext.router import EVENT, REQUEST
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.service_answers import FREE_SID, ServiceAnswers, publish
from alarmdigest.observability.due_news import DueNews
from alarmdigest.observability.other_instances import Effect, OtherInstances, effect_of
from alarmdigest.observability.queries import Queries
from alarmdigest.observability.way import Way
from alarmdigest.pipeline.server_checks import stream_configs_of
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.logs import LimitedLog, Untrusted
from alarmdigest.runtime.queues import Waker
from alarmdigest.wire import service_api
from alarmdigest.wire.queries import NAMES

log = logging.getLogger(__name__)

NAME = "alarmdigest"
# Subscriptions: the answers to our own PING, and to what the way asks.
ANSWERS_SID = FREE_SID
WAY_SID = FREE_SID + 1
# From here on questions of operators, in the order of queries.NAMES.
QUERIES_SID = FREE_SID + 2
# $SRV.PING.alarmdigest: when one of us asks, its question has the body of an answer of its own, so
# that those who were there before learn of it.
ASKED_OF_US_ALL = 1
ASK_EVERY_S = 60.0
# An answer to our PING can come from anybody, as often as they like.
OTHERS_INTERVAL_S = 600.0
# What comes of another one, and what to do.
SENTENCES: dict[Effect, str] = {
    "twice": "another alarmdigest answers the same requests, and every digest is published twice, "
    "with different ids: stop one of us, or give it other subjects;",
    "once_in_stream": "another alarmdigest answers the same requests from the same stream: the "
    "digest stream holds each digest once, as long as neither of us is further behind than its "
    "duplicate window, and a plain subscriber sees each twice, with the same id: stop one of us;",
}


class ServiceApi(ServiceAnswers):
    """Answers for one service, until stop(). Whatever happens to it is logged, and no more.

    On every connection, and then once a minute, it asks who else is there, and says who it is: two
    services on the same subjects both publish every digest.
    """

    def __init__(
        self, service: Service, reconnector: Reconnector, others: OtherInstances, way: Way
    ) -> None:
        super().__init__(
            reconnector,
            name=NAME,
            description="keeps alarms and answers requests with digests",
            inbox_prefix=service.settings.inbox_prefix,
            not_to=service.settings.subjects,
        )
        self._service = service
        self._others = others
        self._way = way
        self._warn_of_others = LimitedLog(log, logging.WARNING, interval_s=OTHERS_INTERVAL_S)
        self._inbox = self._way_inbox = b""
        self._ask_at = 0.0
        self._waker = Waker()
        self._news = DueNews(service.due_watch)
        service.due_watch.on_news = self._waker.wake
        self._queries = Queries(service, self._news, self._waker.wake)

    def _begin(self, connection: Connection) -> None:
        inbox, way_inbox = connection.new_inbox(), connection.new_inbox()
        lines = [f"SUB {inbox} {ANSWERS_SID}\r\n", f"SUB {way_inbox} {WAY_SID}\r\n"]
        base = self._service.settings.query_subject
        lines += [f"SUB {base}.{name} {QUERIES_SID + n}\r\n" for n, name in enumerate(NAMES)]
        connection.send("".join(lines).encode())
        self._inbox, self._way_inbox = inbox.encode(), way_inbox.encode()
        self._way.begin()
        self._ask_for_others(connection)
        connection.watch(self._waker.fileno())

    def _on_message(self, connection: Connection, sid: int, reply: bytes, payload: bytes) -> None:
        if sid == ANSWERS_SID:
            self._on_ping_answer(payload)
        elif sid == WAY_SID:
            self._way.on_answer(payload)
        elif sid >= QUERIES_SID:
            self._on_query(connection, NAMES[sid - QUERIES_SID], payload, reply)
        else:
            if sid == ASKED_OF_US_ALL and reply and payload:
                self._on_ping_answer(payload)
            super()._on_message(connection, sid, reply, payload)

    def _each_round(self, connection: Connection) -> None:
        self._waker.clear()
        for reply, answer in self._queries.answers(connection.max_payload):
            publish(connection, reply, answer)
        self._tell_news(connection)
        if questions := self._way.questions(self._way_inbox):
            connection.send(questions)
        if time.monotonic() >= self._ask_at:
            self._ask_for_others(connection)

    def _on_refused(self, refused: str) -> None:
        if not self._way.on_refused(refused):
            super()._on_refused(refused)

    def _ask_for_others(self, connection: Connection) -> None:
        self._ask_at = time.monotonic() + ASK_EVERY_S
        body = orjson.dumps(self._answer("PING"))
        head = b"PUB $SRV.PING.%b %b %d" % (NAME.encode(), self._inbox, len(body))
        connection.send(b"%b\r\n%b\r\n" % (head, body))

    def _on_query(self, connection: Connection, name: str, payload: bytes, reply: bytes) -> None:
        if not self._is_inbox(reply):
            return
        if (error := self._queries.ask(name, payload, reply)) is not None:
            publish(connection, reply, error)

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
                service_api.endpoint(
                    name,
                    subjects[name],
                    num_requests=requests,
                    num_errors=rejections.by_kind[kind],
                    last_error=rejections.last_reason[kind],
                    processing_time=spent_ns,
                    average_processing_time=spent_ns // timed if timed else 0,
                )
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
