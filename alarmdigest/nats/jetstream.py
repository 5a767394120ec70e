"""JetStream by plain request and reply over a connection of ours.

A connection is either *asking*, and a ``JetStream`` reads it, or *streaming*, and its owner does;
``close()`` ends the asking. It may be asked again later: see ``requests.py``.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from typing import Any

import orjson

from alarmdigest.nats.answers import (
    Delivered,
    PubAck,
    StartAt,
    StoredMessage,
    StreamInfo,
    bad_answer,
    parse_ack_reply,
    read_stored_message,
    read_stream_info,
    status_of,
    valid_name,
)
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import BadAnswer, ConsumerGone, JetStreamError, JetStreamOff, NoAnswer
from alarmdigest.nats.requests import Requests

ANSWER_TYPE = "io.nats.jetstream.api.v1."

# err_code of answers (nats-server, errors.json).
NO_MESSAGE = 10037
OFF_FOR_ACCOUNT = 10039
OFF = 10076
NO_STREAM = 10059
NO_CONSUMER = 10014
NAME_IN_USE = 10058  # of a stream
# Of a PubAck: the entry is not the one that was named. The second is of servers since 2.12.
WRONG_LAST_SEQUENCE = (10071, 10164)
# Of the stream, or of the account.
TOO_MANY_CONSUMERS = (10026, 10028)
# The cluster, a stream or a consumer has no leader now: it will choose one within seconds.
NO_LEADER = (10008, 10009, 10118, 10119)
# The stream's consumer_limits allow less.
INACTIVE_TOO_LONG = 10153


class JetStream(Requests):
    """Asks one request at a time, for the thread that owns the connection.

    Every method may raise ConnectionLost, NoAnswer, JetStreamOff, JetStreamDenied and, where
    JetStream refuses, JetStreamError. Times in seconds unless a name says otherwise.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        domain: str = "",
        timeout_s: float = 5.0,
        received: bytes | None = None,
    ) -> None:
        """A connection that is in use is taken over with ``received``, see ``Requests``."""
        super().__init__(connection, timeout_s=timeout_s, received=received)
        self._prefix = f"$JS.{domain}.API" if domain else "$JS.API"

    # -- asking ----------------------------------------------------------------------------------

    def request(
        self, subject: str, body: dict[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Ask ``$JS.API.<subject>``; the answer as it is.

        Asked again until an answer comes, so it must be a request that may be carried out twice.
        What is no answer of JetStream's does not count, whoever sent it.
        """
        what = f"{self._prefix}.{subject}"
        data = b"" if body is None else json.dumps(body).encode()
        passing: JetStreamError | None = None
        try:
            asked = self._ask(what, data, again=True, timeout_s=timeout_s)
            for _kind, _sid, _to, _reply, headers, payload in asked:
                if status_of(headers) == 503:
                    raise JetStreamOff(f"{self._connection.url}: nobody answers {what}")
                try:
                    answer = read_answer(payload, subject)
                except JetStreamError as error:
                    if error.err_code not in NO_LEADER:
                        raise
                    passing = error
                    continue
                if answer is not None:
                    return answer
        except NoAnswer:
            if passing is not None:
                raise passing from None
            raise
        raise AssertionError("it ends with NoAnswer only")

    def publish(
        self,
        subject: str,
        body: bytes,
        headers: bytes = b"",
        meant: tuple[str, str] | None = None,
    ) -> PubAck:
        """Publish a message and wait for its PubAck.

        ``headers`` is a whole block. ``meant`` are the stream and the domain that are to answer, if
        others do not count. Raises JetStreamOff when no stream captures the subject.
        """
        answers = self._ask(subject, body, again=False, headers=headers)
        for _kind, _sid, _to, _reply, status, payload in answers:
            if status_of(status) == 503:
                raise JetStreamOff(f"{self._connection.url}: no stream captures {subject}")
            ack = read_pub_ack(payload, subject)
            if meant is None or (ack.stream, ack.domain) == meant:
                return ack
        raise AssertionError("it ends with NoAnswer only")

    def stored_message(self, stream: str, seq: int) -> tuple[bytes, bytes] | None:
        """Headers and body of a message; None if the stream holds none of this sequence."""
        message = self.find_message(stream, {"seq": seq})
        return None if message is None else (message.headers, message.payload)

    def find_message(self, stream: str, which: dict[str, Any]) -> StoredMessage | None:
        """One message, as the stream's leader has it; None if it has none such. ``which`` is as in
        ``STREAM.MSG.GET``: of a sequence, the next of a subject, or the last of one."""
        try:
            answer = self.request(f"STREAM.MSG.GET.{_name(stream)}", which)
        except JetStreamError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise
        return read_stored_message(answer)

    def leader_messages(
        self, stream: str, first: int, count: int = 64, *, subject: str = ">"
    ) -> list[tuple[int, bytes, bytes]]:
        """Some messages at or after ``first``, of this subject, in order, without a gap: sequence,
        headers, body.

        None means that there are none. They are asked of the stream's leader one by one, ``count``
        at once: slower than a consumer, and possible while nobody can make one. Raises NoAnswer
        when none has come for ``timeout_s``.
        """
        what = f"{self._prefix}.STREAM.MSG.GET.{_name(stream)}"
        asked: dict[bytes, int] = {}
        found: dict[int, dict[str, Any] | None] = {}
        next_at, moved_at, seen = 0.0, time.monotonic(), (0, self._filled)
        while len(found) < count:
            now, before = time.monotonic(), seen
            if (seen := (len(found), self._filled)) != before:
                # Something comes, slowly perhaps; what is asked for again would come behind it.
                moved_at = now if seen[0] > before[0] else moved_at
                next_at = min(now, moved_at + 3 * self._ask_again_s) + self._ask_again_s
            if now >= (deadline := moved_at + self._timeout_s):
                if first in found:  # the rest is asked for next time
                    break
                raise NoAnswer(f"{self._connection.url}: no answer in time to {what}")
            if now >= next_at:
                next_at = now + self._ask_again_s
                for seq in range(first, first + count):
                    if seq not in found:
                        body = json.dumps({"seq": seq, "next_by_subj": subject}).encode()
                        asked[self._publish_to(what, body)] = seq
            for _kind, _sid, to, _reply, headers, payload in self._receive(min(next_at, deadline)):
                if (seq := asked.get(to, 0)) == 0:
                    continue
                if status_of(headers) == 503:
                    raise JetStreamOff(f"{self._connection.url}: nobody answers {what}")
                try:
                    answer = read_answer(payload, what)
                except JetStreamError as error:
                    if error.err_code == NO_MESSAGE:
                        found[seq] = None
                    elif error.err_code not in NO_LEADER:
                        raise
                else:
                    if answer is not None and isinstance(answer.get("message"), dict):
                        found[seq] = answer["message"]
        messages, seq = [], first
        while (message := found.get(seq)) is not None:
            try:
                here = int(message["seq"])
                parts = b64decode(message.get("hdrs", "")), b64decode(message.get("data", ""))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise bad_answer(message) from error
            if here < seq:
                raise bad_answer(message)
            messages.append((here, *parts))
            seq = here + 1
        return messages

    def fetch(self, stream: str, consumer: str, *, batch: int, max_bytes: int) -> list[Delivered]:
        """Pull at most ``batch`` messages of ``max_bytes`` together, of those that are there.

        Fewer than ``batch`` do not mean that there are no more: see ``pending`` of the last one;
        none means it. ``max_bytes`` must exceed the largest message.
        """
        what = f"{self._prefix}.CONSUMER.MSG.NEXT.{_name(stream)}.{_name(consumer)}"
        body = {"batch": batch, "no_wait": True, "max_bytes": max_bytes}
        reply = self._publish_to(what, json.dumps(body).encode())
        got: list[Delivered] = []
        deadline = time.monotonic() + self._timeout_s
        while True:
            before = len(got)
            if time.monotonic() >= deadline:
                raise ConsumerGone(f"{self._connection.url}: {consumer} of {stream} is silent")
            for _kind, _sid, to, ack, headers, payload in self._receive(deadline):
                if to.startswith(self._inbox.encode()):
                    status = status_of(headers)
                    if to != reply or status == 100:
                        continue
                    if status in (404, 408) or (status == 409 and got):
                        return got
                    text = headers.partition(b"\r\n")[0].decode("utf-8", "replace")
                    if status == 400 or "exceed" in text.lower():
                        raise JetStreamError(status, 0, text, what)
                    raise ConsumerGone(f"{self._connection.url}: {consumer} ended: {text}")
                if f".{stream}.{consumer}.".encode() not in ack:
                    continue  # of one that was given up before
                try:
                    got.append(Delivered(parse_ack_reply(ack), headers, payload))
                except ValueError as error:
                    raise BadAnswer(f"{self._connection.url}: {error}") from error
            if len(got) > before:
                deadline = time.monotonic() + self._timeout_s
            # Not every server says so when a pull ends because nothing is left.
            if got and (len(got) >= batch or got[-1].ack.pending == 0):
                return got

    # -- the account and its streams -------------------------------------------------------------

    def available(self) -> bool:
        """Whether our account has JetStream; the server's INFO tells of the server only.

        Errors that may pass, such as a cluster without a leader, are raised.
        """
        try:
            self.request("INFO")
        except JetStreamOff:
            return False
        except JetStreamError as error:
            if error.err_code in (OFF, OFF_FOR_ACCOUNT):
                return False
            raise
        return True

    def stream_info(self, name: str) -> StreamInfo | None:
        """None if there is no such stream."""
        try:
            return read_stream_info(self.request(f"STREAM.INFO.{_name(name)}"))
        except JetStreamError as error:
            if error.err_code == NO_STREAM:
                return None
            raise

    def stream_names_for(self, subject: str) -> list[str]:
        """The streams that capture some of what this subject, maybe with wildcards, stands for."""
        names: list[str] = []
        while True:
            answer = self.request("STREAM.NAMES", {"subject": subject, "offset": len(names)})
            page = answer.get("streams") or []
            names += page
            if not page or len(names) >= int(answer.get("total", 0)):
                return names

    def create_stream(self, config: dict[str, Any]) -> StreamInfo:
        """The same again if it is there with this very configuration; else error 10058."""
        return read_stream_info(self.request(f"STREAM.CREATE.{_name(config['name'])}", config))

    def message_time_ns(self, stream: str, seq: int) -> int | None:
        """When the stream stored this message; None if it holds none of this sequence."""
        found = self.find_message(stream, {"seq": seq})
        return None if found is None else found.timestamp_ns

    def next_message(self, stream: str, seq: int) -> tuple[int, int] | None:
        """Sequence and time in ns of the first message at or after ``seq``."""
        found = self.find_message(stream, {"seq": seq, "next_by_subj": ">"})
        return None if found is None else (found.seq, found.timestamp_ns)

    # -- consumers -------------------------------------------------------------------------------

    def create_consumer(
        self,
        stream: str,
        *,
        name: str,
        start: StartAt,
        filter_subjects: list[str] | None = None,
        headers_only: bool = False,
        inactive_s: float = 60.0,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Make a pull consumer that nobody acknowledges, and that goes when it is not used.

        The answer's ``num_pending`` says how many messages wait.
        """
        what, body = consumer_request(
            stream,
            name=name,
            start=start,
            filter_subjects=filter_subjects,
            headers_only=headers_only,
            inactive_s=inactive_s,
        )
        try:
            return self.request(what, body, timeout_s=timeout_s)
        except JetStreamError as error:
            if error.err_code != INACTIVE_TOO_LONG:
                raise
            # Without a limit of our own we get the stream's.
            del body["config"]["inactive_threshold"]
            return self.request(what, body, timeout_s=timeout_s)

    def delete_consumer(self, stream: str, name: str) -> bool:
        """False if there was none."""
        try:
            self.request(f"CONSUMER.DELETE.{_name(stream)}.{_name(name)}")
        except JetStreamError as error:
            if error.err_code in (NO_CONSUMER, NO_STREAM):
                return False
            raise
        return True


def consumer_request(
    stream: str,
    *,
    name: str,
    start: StartAt,
    filter_subjects: list[str] | None = None,
    headers_only: bool = False,
    inactive_s: float = 60.0,
) -> tuple[str, dict[str, Any]]:
    """What to ask, and with which body, for a consumer as ``create_consumer`` makes it."""
    config: dict[str, Any] = {
        "name": name,
        "ack_policy": "none",
        "replay_policy": "instant",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": round(inactive_s * 1e9),
        **start.config(),
    }
    if filter_subjects:
        config["filter_subjects"] = filter_subjects
    if headers_only:
        config["headers_only"] = True
    body = {"stream_name": stream, "config": config, "action": "create"}
    return f"CONSUMER.CREATE.{_name(stream)}.{_name(name)}", body


def read_answer(payload: bytes, subject: str) -> dict[str, Any] | None:
    """None for what is no answer of JetStream's: the true one may still come. JetStreamError where
    it refuses."""
    try:
        answer = orjson.loads(payload)
        if not answer["type"].startswith(ANSWER_TYPE):
            return None
        error = answer.get("error")
        if error is None:
            return dict(answer)
        refusal = read_error(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    raise JetStreamError(*refusal, subject)


def read_error(error: dict[str, Any]) -> tuple[int, int, str]:
    """``code``, ``err_code`` and description of JetStream's error; raises as dict and int() do."""
    description = error.get("description")
    text = description if isinstance(description, str) else ""
    return int(error["code"]), int(error.get("err_code", 0)), text[:200]


def read_pub_ack(payload: bytes, subject: str) -> PubAck:
    """Raises BadAnswer, and JetStreamError where the stream refuses."""
    try:
        answer = orjson.loads(payload)
        error = answer.get("error")
        if error is None:
            stream, domain = answer["stream"], answer.get("domain", "")
            texts = (text if isinstance(text, str) else "" for text in (stream, domain))
            return PubAck(next(texts), int(answer["seq"]), next(texts))
        refusal = read_error(error)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BadAnswer(f"no PubAck for {subject}: {payload[:80]!r}") from problem
    raise JetStreamError(*refusal, subject)


def _name(name: str) -> str:
    if not valid_name(name):
        raise ValueError(f"{name!r} is no name for a stream or consumer")
    return name
