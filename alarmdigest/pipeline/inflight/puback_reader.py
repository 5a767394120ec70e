"""What JetStream answers to a message that was published: stored, refused, or none of the sort.

Any subscriber can answer a reply subject, and in another JetStream domain or account there may be a
stream of the same name. Only an answer of the stream, and in the domain, that is meant counts.
"""

from __future__ import annotations

import logging
from typing import Any

import orjson

from alarmdigest._ext.inflight import DIGEST, InFlight
from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.jetstream import read_error
from alarmdigest.nats.permanent_errors import is_permanent
from alarmdigest.pipeline.inflight.blocked import PublishBlocked
from alarmdigest.runtime.logs import LimitedLog

log = logging.getLogger(__name__)

IN_PROCESS = 10158
STORE_FAILED = 10077  # it is full and discards what is new
MESSAGE_TOO_LARGE = 10054


class PubAckReader:
    """``streams`` are by kind of message, and so is the JetStream domain of each.

    ``duplicates`` counts answers that a stream held a message already, ``foreign_answers`` those of
    streams that are not meant; ``given_up`` messages that will never be published.
    """

    def __init__(self, in_flight: InFlight, streams: list[str], digest_subject: str) -> None:
        self.duplicates = 0
        self.foreign_answers = 0
        self.given_up = 0
        #: False once two streams of the same name have answered.
        self.trusts_answers = True
        self._in_flight = in_flight
        self._streams = streams
        self._domains = ["" for _ in streams]
        self._digest_subject = digest_subject
        self._foreign = LimitedLog(log, logging.WARNING)
        self._trouble = LimitedLog(log, logging.ERROR)

    def domain(self, kind: int) -> str:
        """The JetStream domain of a stream; empty where there is none, or it is not known yet."""
        return self._domains[kind]

    def set_domain(self, kind: int, domain: str) -> None:
        self._domains[kind] = domain
        if self.trusts_answers:
            self._in_flight.set_stream(kind, self._streams[kind].encode(), domain.encode())

    def give_up(self, number: int) -> None:
        self._in_flight.confirm(number)
        self.given_up += 1

    def on_answer(self, number: int, headers: bytes, text: bytes) -> PublishBlocked | None:
        """An answer that is no plain PubAck; why the message must be sent again, if so.

        Any subscriber can answer a reply subject: what is no answer of the stream, and in the
        domain, that is meant does not count.
        """
        kind = self._in_flight.kind_of_sent(number)
        if kind < 0:
            return None
        if not text and headers.startswith(b"NATS/1.0 503"):
            reason = f"no stream captures what should go into {self._streams[kind]}"
            # Whoever sends rubbish must not be able to hold up digests with it.
            return self._wait_for_retry(number, _blocked(kind, reason, passing=True))
        answer = read_answer(text)
        if answer is None:
            return None
        error, seq = answer.get("error"), answer.get("seq")
        if isinstance(error, dict):
            # It names no domain: it may be that of a stream which is not meant. Then a digest is
            # sent again for nothing, and the stream that has it says so; a rejected message may be
            # given up for nothing, and is counted as lost.
            meant = answer.get("stream", self._streams[kind]) == self._streams[kind]
            meant = meant and self._in_flight.kind_of(number) >= 0
            return self._on_publish_error(number, kind, error) if meant else None
        if not (isinstance(seq, int) and seq > 0):
            return None
        meant = self._streams[kind], self._domains[kind]
        if (answer.get("stream"), answer.get("domain") or "") != meant:
            self.foreign_answers += 1
            self._foreign(
                "another stream answers to what we publish; that confirms nothing",
                stream=_text(answer.get("stream")),
                domain=_text(answer.get("domain")),
            )
            return None
        self._in_flight.count_answer(number)
        if self._in_flight.second_answers and self.trusts_answers:
            self._distrust_answers()
        if self.trusts_answers:
            duplicate = bool(answer.get("duplicate"))
            self.duplicates += duplicate
            self._in_flight.confirm(number, 0 if duplicate else seq)
        return None

    def _distrust_answers(self) -> None:
        """Two streams of one name answer: from now on only what is read in the stream confirms."""
        self.trusts_answers = False
        self._in_flight.ignore_plain_acks()
        log.error(
            "two streams of the same name answer to what we publish; from now on what they hold is "
            "read instead, which is slower: give each JetStream a domain of its own, or keep the "
            "subject %s out of the other one",
            self._digest_subject,
        )

    def _on_publish_error(
        self, number: int, kind: int, error: dict[str, Any]
    ) -> PublishBlocked | None:
        # Anybody can answer a reply subject: it must not write lines into our log.
        try:
            code, err_code, description = read_error(error)
        except (KeyError, TypeError, ValueError):
            return None
        if err_code == IN_PROCESS:
            return None  # an earlier copy of the same message is being stored, and will be answered
        reason = f"{self._streams[kind]} refused a message: {ascii(description)[1:-1]}"
        passing = not is_permanent(JetStreamError(code, err_code, description))
        # A stream of rejected messages that is full would let whoever sends rubbish silence all.
        if kind == DIGEST or (passing and err_code != STORE_FAILED):
            passes = passing and err_code != STORE_FAILED
            blocked = _blocked(kind, reason, passing=passes, alone=err_code == MESSAGE_TOO_LARGE)
            return self._wait_for_retry(number, blocked)
        self.give_up(number)
        self._trouble("a rejected message cannot be published and is given up", reason=reason)
        return None

    def _wait_for_retry(self, number: int, blocked: PublishBlocked) -> PublishBlocked | None:
        return blocked if self._in_flight.on_publish_error(number) else None


def _blocked(kind: int, reason: str, *, passing: bool, alone: bool = False) -> PublishBlocked:
    """``alone``: the message itself is at fault. A rejected one never holds up others."""
    if kind == DIGEST:
        return PublishBlocked(reason, only_this_one=alone, passing=passing)
    return PublishBlocked(reason, only_this_one=True, passing=passing, concerns="rejected messages")


def _text(value: object) -> str:
    return ascii(value[:80]) if isinstance(value, str) else "none"


def read_answer(text: bytes) -> dict[str, Any] | None:
    """None for what is no JSON object."""
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None
