"""Requests to JetStream over a connection that somebody else reads meanwhile.

Answers come through the router, with the messages (``Router.take_answers``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from alarmdigest._ext.router import LEADER_SID, Router
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.jetstream import NO_LEADER, read_answer
from alarmdigest.nats.requests import ASK_AGAIN_S

# So many times a question may have been asked again before its first answer comes.
LATE_REPLIES = 8

OnAnswer: TypeAlias = "Callable[[dict[str, Any] | JetStreamError], None]"


@dataclass(slots=True)
class _Question:
    subject: str
    body: bytes
    on_answer: OnAnswer
    asked_at: float = 0.0
    replies: list[bytes] = field(default_factory=list)


class Questions:
    """What was asked on one connection and is not answered yet; it is asked again meanwhile."""

    def __init__(self, connection: Connection, router: Router, *, prefix: str) -> None:
        """``prefix`` of the subjects: ``$JS.API``, or that of a domain."""
        self._connection = connection
        self._router = router
        self._prefix = prefix
        self._again_s = max(ASK_AGAIN_S, 2 * connection.round_trip_s)
        self._inbox = connection.new_inbox()
        self._open: dict[bytes, _Question] = {}
        self._asked = 0
        router.take_answers()  # those of an earlier connection
        connection.send(f"SUB {self._inbox}.*  {LEADER_SID}\r\n".encode())

    def close(self) -> None:
        """No more answers, for another ``Questions`` on the same connection."""
        self._connection.send(b"UNSUB %d\r\n" % LEADER_SID)

    def ask(self, what: str, body: dict[str, Any], on_answer: OnAnswer) -> None:
        """Ask ``<prefix>.<what>``; the request must be safe to repeat."""
        self._publish([_Question(f"{self._prefix}.{what}", orjson.dumps(body), on_answer)])

    def ask_again(self) -> None:
        """Call it often: asks again what was not answered in time."""
        before = time.monotonic() - self._again_s
        late = {id(one): one for one in self._open.values() if one.asked_at < before}
        for question in late.values():
            # A late answer counts, too; but not for ever.
            for reply in question.replies[:-LATE_REPLIES]:
                self._open.pop(reply, None)
            question.replies = question.replies[-LATE_REPLIES:]
        self._publish(list(late.values()))

    def hear(self) -> None:
        """Call it after every read: hands over the answers that came."""
        for reply, payload in self._router.take_answers():
            question = self._open.get(reply)
            if question is None:  # a second answer, or one of a connection before
                continue
            answer: dict[str, Any] | JetStreamError | None
            try:
                answer = read_answer(payload, question.subject)
            except JetStreamError as error:
                answer = None if error.err_code in NO_LEADER else error
            if answer is not None:
                for one in question.replies:
                    self._open.pop(one, None)
                question.on_answer(answer)

    def _publish(self, questions: list[_Question]) -> None:
        lines = []
        for question in questions:
            self._asked += 1
            reply = f"{self._inbox}.{self._asked}".encode()
            question.asked_at = time.monotonic()
            question.replies.append(reply)
            self._open[reply] = question
            head = question.subject.encode(), reply, len(question.body)
            lines.append(b"PUB %b %b %d\r\n%b\r\n" % (*head, question.body))
        if lines:
            self._connection.send(b"".join(lines))
