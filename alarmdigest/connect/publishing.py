"""Many messages to JetStream at once, and what became of each."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from alarmdigest._ext import frames
from alarmdigest.nats.answers import status_of
from alarmdigest.nats.jetstream import JetStream

# JetStream refuses more than 10,000 that wait for one stream.
WINDOW_MESSAGES = 4000
WINDOW_BYTES = 8 * 1024 * 1024
# So long without any confirmation, and those that are missing are taken for lost.
SILENCE_S = 3.0


class Outgoing(NamedTuple):
    """``stream`` is the one that is to store it; ``headers`` is a whole block, or empty."""

    stream: str
    subject: str
    body: bytes
    headers: bytes = b""


class Outcome(NamedTuple):
    """``problem`` is empty for a message that the stream has, under ``sequence``, or had already:
    then it is a ``duplicate``."""

    problem: str
    sequence: int = 0
    duplicate: bool = False


# What the server says of a message that it throws away (nats-server, client.go).
_DENIED = re.compile(rb'Permissions Violation for Publish to "(.*)"', re.IGNORECASE)

NO_STREAM = "no stream captures"
UNANSWERED = Outcome("JetStream did not confirm it in time")


class BatchJetStream(JetStream):
    """Publishes with one write for many messages. Raises what JetStream's requests raise; a subject
    that we may not publish to is the problem of its messages only.

    ``home`` is the JetStream domain of our streams, once it is known, empty for none. Where there
    are several domains, a stream of the same name in another one may take what we publish, too, and
    answer: what it has stored, or refused, says nothing.
    """

    home: str = ""
    _publishing = False
    _denied: frozenset[str] = frozenset()

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes as one message, headers included."""
        return self._connection.max_payload

    def publish_all(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        """What became of each, in order, once all are answered or for SILENCE_S nothing came: then
        the rest is not sent."""
        outcomes: list[Outcome] = []
        self._publishing = True
        try:
            for window in _windows(messages):
                outcomes += self._publish_window(window)
                if outcomes[-1] is UNANSWERED:
                    break
        finally:
            self._publishing = False
        return outcomes + [UNANSWERED] * (len(messages) - len(outcomes))

    def _publish_window(self, messages: Sequence[Outgoing]) -> list[Outcome]:
        first = self._requests + 1
        self._requests += len(messages)
        inbox = self._inbox
        parts = []
        for number, (_stream, subject, body, headers) in enumerate(messages, first):
            if headers:
                parts.append(
                    f"HPUB {subject} {inbox}.{number} {len(headers)} {len(headers) + len(body)}"
                    "\r\n".encode()
                )
                parts.append(headers)
            else:
                parts.append(f"PUB {subject} {inbox}.{number} {len(body)}\r\n".encode())
            parts.append(body)
            parts.append(b"\r\n")
        self._connection.send(b"".join(parts))
        outcomes: list[Outcome | None] = [None] * len(messages)
        refused: dict[int, Outcome] = {}
        left, prefix = len(messages), len(inbox) + 1
        deadline = time.monotonic() + SILENCE_S
        while left and time.monotonic() < deadline:
            received = self._receive(deadline)
            for place in self._denied_places(messages, outcomes):
                outcomes[place] = Outcome(f"we may not publish to {messages[place].subject}")
                left -= 1
            for _kind, _sid, to, _reply, headers, payload in received:
                which = to[prefix:]
                place = int(which) - first if which.isdigit() else -1
                if not 0 <= place < len(messages) or outcomes[place] is not None:
                    continue  # an answer that was given up
                outcome = _outcome(headers, payload, messages[place], self.home)
                if outcome is None:
                    continue
                if outcome.problem and self.home:
                    refused[place] = outcome  # by a stream that it does not name: ours may follow
                    continue
                outcomes[place] = outcome
                left -= 1
                deadline = time.monotonic() + SILENCE_S
        return [
            refused.get(place, UNANSWERED) if one is None else one
            for place, one in enumerate(outcomes)
        ]

    def _denied_places(
        self, messages: Sequence[Outgoing], outcomes: Sequence[Outcome | None]
    ) -> list[int]:
        """Those of messages that the server has thrown away, as it has just said."""
        denied, self._denied = self._denied, frozenset()
        if not denied:
            return []
        return [
            place
            for place, message in enumerate(messages)
            if outcomes[place] is None and message.subject in denied
        ]

    def _control(self, kind: int, text: bytes) -> None:
        match = _DENIED.search(text) if kind == frames.ERR and self._publishing else None
        if match is not None:
            self._denied |= {match[1].decode("utf-8", "replace")}
        else:
            super()._control(kind, text)


def _windows(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    first = size = 0
    for place, message in enumerate(messages):
        size += len(message.body)
        if place - first >= WINDOW_MESSAGES or size > WINDOW_BYTES:
            if place > first:
                yield messages[first:place]
            first, size = place, len(message.body)
    if first < len(messages):
        yield messages[first:]


def _outcome(headers: bytes, payload: bytes, message: Outgoing, home: str) -> Outcome | None:
    """None for what is no answer of our stream's, whoever sent it."""
    subject = message.subject
    if headers and status_of(headers) == 503:
        return Outcome(f"{NO_STREAM} {subject}")
    try:
        answer = orjson.loads(payload)
        if (error := answer.get("error")) is not None:
            text = str(error.get("description"))[:200]
            return Outcome(f"{subject}: JetStream refuses it: {text} ({error.get('err_code')})")
        if (answer["stream"], answer.get("domain", "")) != (message.stream, home):
            return None
        return Outcome("", int(answer["seq"]), bool(answer.get("duplicate")))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
