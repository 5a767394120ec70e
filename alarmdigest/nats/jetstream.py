"""JetStream by plain request and reply over a connection of ours.

The rule of phases: a connection is first *asking*, then *streaming*. While it asks, a ``JetStream``
reads it, and nobody may have subscribed to anything on it. ``close()`` ends that:
whoever streams begins with a whole frame, and no answer of ours comes any more.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from typing import Any

import orjson

from alarmdigest._ext import frames, timestamps
from alarmdigest.nats.answers import (
    Delivered,
    StartAt,
    StreamInfo,
    bad_answer,
    parse_ack_reply,
    read_stream_info,
    status_of,
    valid_name,
)
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import (
    BadAnswer,
    ConnectionLost,
    JetStreamDenied,
    JetStreamError,
    JetStreamOff,
)

JETSTREAM_SID = 100
# How long one read may wait before our own pings are seen to.
STEP_S = 0.5
ANSWER_TYPE = "io.nats.jetstream.api.v1."

# err_code of answers (nats-server, errors.json).
NO_MESSAGE = 10037
OFF_FOR_ACCOUNT = 10039
OFF = 10076
NO_STREAM = 10059
NO_CONSUMER = 10014
INACTIVE_TOO_LONG = 10153


class JetStream:
    """Asks one request at a time, for the thread that owns the connection.

    Every method may raise ConnectionLost (also when no answer came in time: whether the request
    was carried out is unknown then), JetStreamOff, JetStreamDenied and, where JetStream refuses,
    JetStreamError.
    """

    def __init__(self, connection: Connection, *, domain: str = "", timeout_s: float = 5.0) -> None:
        self._connection = connection
        self._prefix = f"$JS.{domain}.API" if domain else "$JS.API"
        self._timeout_s = timeout_s
        self._inbox = connection.new_inbox()
        self._requests = 0
        self._buffer = bytearray(1 << 18)
        self._filled = 0
        connection.send(f"SUB {self._inbox}.* {JETSTREAM_SID}\r\n".encode())

    def close(self) -> None:
        """End the asking phase. Raises ConnectionLost.

        Waits for the server to have taken the UNSUB, so that no late answer reaches the next
        reader, and for the rest of a frame that has begun (INFO may come at any time).
        """
        connection = self._connection
        connection.send(b"UNSUB %d\r\n" % JETSTREAM_SID)
        ping = connection.send_ping()
        deadline = time.monotonic() + self._timeout_s
        while connection.pongs < ping or self._filled:
            self._receive(deadline, "the end of our requests")

    # -- asking ----------------------------------------------------------------------------------

    def request(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask ``$JS.API.<subject>``; the answer as it is.

        What is no answer of JetStream's does not count, whoever sent it.
        """
        reply = self._publish(subject, body)
        deadline = time.monotonic() + self._timeout_s
        what = f"{self._prefix}.{subject}"
        while True:
            for _kind, _sid, to, _reply, headers, payload in self._receive(deadline, what):
                if to != reply:
                    continue
                if status_of(headers) == 503:
                    raise JetStreamOff(f"{self._connection.url}: nobody answers {what}")
                try:
                    answer = orjson.loads(payload)
                    if not answer["type"].startswith(ANSWER_TYPE):
                        raise ValueError
                    error = answer.get("error")
                    if error is not None:
                        code, err_code = int(error["code"]), int(error.get("err_code", 0))
                        text = str(error.get("description", ""))
                except (ValueError, KeyError, TypeError, AttributeError):
                    # The true one may still come.
                    what = f"{self._prefix}.{subject} but {payload[:80]!r}"
                    continue
                if error is not None:
                    raise JetStreamError(code, err_code, text, subject)
                return dict(answer)

    def publish(self, subject: str, body: bytes) -> tuple[str, int]:
        """Publish a message and wait for its PubAck: stream and sequence.

        Raises JetStreamOff when no stream captures the subject.
        """
        reply = self._publish_to(subject, body)
        deadline = time.monotonic() + self._timeout_s
        what = f"the message on {subject}"
        while True:
            for _kind, _sid, to, _reply, headers, payload in self._receive(deadline, what):
                if to != reply:
                    continue
                if status_of(headers) == 503:
                    raise JetStreamOff(f"{self._connection.url}: no stream captures {subject}")
                return _read_pub_ack(payload, subject)

    def stored_message(self, stream: str, seq: int) -> tuple[bytes, bytes] | None:
        """Headers and body of a message; None if the stream holds none of this sequence."""
        try:
            answer = self.request(f"STREAM.MSG.GET.{_name(stream)}", {"seq": seq})
        except JetStreamError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise
        try:
            message = answer["message"]
            return b64decode(message.get("hdrs", "")), b64decode(message.get("data", ""))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise bad_answer(answer) from error

    def fetch(self, stream: str, consumer: str, *, batch: int, max_bytes: int) -> list[Delivered]:
        """Pull at most ``batch`` messages of ``max_bytes`` together, of those that are there.

        Fewer than ``batch`` do not mean that there are no more: see ``pending`` of the last one;
        none means it. ``max_bytes`` must exceed the largest message.
        """
        what = f"CONSUMER.MSG.NEXT.{_name(stream)}.{_name(consumer)}"
        body = {"batch": batch, "no_wait": True, "max_bytes": max_bytes}
        reply = self._publish(what, body)
        got: list[Delivered] = []
        deadline = time.monotonic() + self._timeout_s
        while True:
            before = len(got)
            for _kind, _sid, to, ack, headers, payload in self._receive(deadline, what):
                if to.startswith(self._inbox.encode()):
                    status = status_of(headers)
                    if to != reply or status == 100:
                        continue
                    if status in (404, 408) or (status == 409 and got):
                        return got
                    text = headers.partition(b"\r\n")[0].decode("utf-8", "replace")
                    if status == 400 or "exceed" in text.lower():
                        raise JetStreamError(status, 0, text, what)
                    # The consumer or its leader is gone: a new one may work.
                    raise ConnectionLost(f"{self._connection.url}: {consumer} ended: {text}")
                try:
                    got.append(Delivered(parse_ack_reply(ack), headers, payload))
                except ValueError as error:
                    raise BadAnswer(f"{self._connection.url}: {error}") from error
            if len(got) > before:
                deadline = time.monotonic() + self._timeout_s
            # Not every server says so when a pull ends because nothing is left.
            if got and (len(got) >= batch or got[-1].ack.pending == 0):
                return got

    def _publish(self, subject: str, body: dict[str, Any] | None) -> bytes:
        """Send a request; the subject of its answer, which no other request has."""
        data = b"" if body is None else json.dumps(body).encode()
        return self._publish_to(f"{self._prefix}.{subject}", data)

    def _publish_to(self, subject: str, data: bytes) -> bytes:
        """Send a message with a subject for its answer, which is returned."""
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}".encode()
        self._connection.send(
            b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply, len(data), data)
        )
        return reply

    def _receive(self, deadline: float, what: str) -> list[frames.Frame]:
        """What came on our subscription, perhaps nothing yet. Everything else is seen to."""
        connection = self._connection
        left = deadline - time.monotonic()
        if left <= 0:
            raise ConnectionLost(f"{connection.url}: no answer in time to {what}")
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(self._filled))
        self._filled += connection.receive_into(self._buffer, self._filled, min(left, STEP_S))
        try:
            found, end = frames.scan(self._buffer, 0, self._filled)
        except frames.ProtocolError as error:
            raise ConnectionLost(f"{connection.url}: {error}") from error
        if end:
            self._buffer[: self._filled - end] = self._buffer[end : self._filled]
            self._filled -= end
        ours = []
        refused = None
        for frame in found:
            if frame[0] not in (frames.MSG, frames.HMSG):
                refused = connection.handle(frame[0], frame[-1]) or refused
            elif frame[1] != JETSTREAM_SID:
                raise RuntimeError(f"subscription {frame[1]} was made while JetStream is asked")
            else:
                ours.append(frame)
        if refused:
            raise JetStreamDenied(f"{connection.url}: the server said: {refused}")
        connection.keep_alive()
        return ours

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
        found = self._message(stream, {"seq": seq})
        return None if found is None else found[1]

    def next_message(self, stream: str, seq: int) -> tuple[int, int] | None:
        """Sequence and time in ns of the first message at or behind ``seq``."""
        return self._message(stream, {"seq": seq, "next_by_subj": ">"})

    def _message(self, stream: str, which: dict[str, Any]) -> tuple[int, int] | None:
        try:
            answer = self.request(f"STREAM.MSG.GET.{_name(stream)}", which)
        except JetStreamError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise
        try:
            return int(answer["message"]["seq"]), timestamps.to_ns(answer["message"]["time"])
        except (KeyError, TypeError, ValueError) as error:
            raise bad_answer(answer) from error

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
    ) -> dict[str, Any]:
        """Make a pull consumer that nobody acknowledges, and that goes when it is not used.

        The answer's ``num_pending`` says how many messages wait.
        """
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
        what = f"CONSUMER.CREATE.{_name(stream)}.{_name(name)}"
        try:
            return self.request(what, body)
        except JetStreamError as error:
            if error.err_code != INACTIVE_TOO_LONG:
                raise
            # The stream's consumer_limits say less: without one of our own we get theirs.
            del config["inactive_threshold"]
            return self.request(what, body)

    def delete_consumer(self, stream: str, name: str) -> bool:
        """False if there was none."""
        try:
            self.request(f"CONSUMER.DELETE.{_name(stream)}.{_name(name)}")
        except JetStreamError as error:
            if error.err_code in (NO_CONSUMER, NO_STREAM):
                return False
            raise
        return True


def _read_pub_ack(payload: bytes, subject: str) -> tuple[str, int]:
    try:
        answer = orjson.loads(payload)
        error = answer.get("error")
        if error is None:
            return str(answer["stream"]), int(answer["seq"])
        code, err_code = int(error["code"]), int(error.get("err_code", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise BadAnswer(f"no PubAck for {subject}: {payload[:80]!r}") from problem
    raise JetStreamError(code, err_code, str(error.get("description", "")), subject)


def _name(name: str) -> str:
    if not valid_name(name):
        raise ValueError(f"{name!r} is no name for a stream or consumer")
    return name
