"""The durable consumer of digests, over a connection that also asks and publishes.

A pull stays open for seconds: what it brings is put aside whenever the connection is read, also
while an answer to something else is awaited.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from alarmdigest._ext import frames
from alarmdigest.connect.publishing import BatchJetStream
from alarmdigest.nats.answers import StoredMessage, parse_ack_reply, read_stored_message, status_of
from alarmdigest.nats.errors import (
    BadAnswer,
    ConsumerGone,
    JetStreamError,
    NoAnswer,
    StreamConflict,
)
from alarmdigest.nats.jetstream import NO_CONSUMER, NO_MESSAGE, read_answer

PULL_EXPIRES_S = 5.0
ACK, NAK, IN_PROGRESS = b"+ACK", b"-NAK", b"+WPI"
_ACK_SUBJECT = b"$JS.ACK."
# Entries of a bucket that are asked for at once, and how long their answers may take together.
TOGETHER = 256
ENTRIES_WITHIN_S = 2.0


class Arrived(NamedTuple):
    """A digest as it was delivered, for the ``delivered``-th time. ``reply`` is where to answer."""

    sequence: int
    delivered: int
    at_ns: int
    reply: bytes
    headers: bytes
    body: bytes


class Consumer(NamedTuple):
    """How long the server waits for an acknowledgement, in seconds, and how many digests it lets
    be unacknowledged at most, or we do."""

    ack_wait_s: float
    most_held: int


class Standing(NamedTuple):
    """What the server says of a consumer: through which sequence all is acknowledged, how many
    digests are delivered and not acknowledged, and how many were not delivered yet."""

    floor: int
    unacknowledged: int
    pending: int


class DigestJetStream(BatchJetStream):
    """For the thread that owns the connection."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.arrived: deque[Arrived] = deque()
        self._pull = b""
        self._pull_left = 0
        self._pull_ends = 0.0
        self._consumer_gone = ""

    # -- the consumer

    def ensure_consumer(
        self,
        stream: str,
        name: str,
        *,
        subject: str,
        most_held: int,
        ack_wait_s: float,
        create: bool,
    ) -> Consumer:
        """What it is like: one that is there keeps its own limits.

        Made where it is missing and ``create``. Raises ConsumerGone where it is missing,
        StreamConflict where it is one that we cannot use, and what requests raise."""
        config = {
            "durable_name": name,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "ack_wait": round(ack_wait_s * 1e9),
            "max_deliver": -1,
            "max_ack_pending": most_held,
            "filter_subject": subject,
            "description": "alarmdigest deliver",
        }
        there = self._consumer_info(stream, name)
        if there is None:
            if not create:
                raise ConsumerGone(
                    f"there is no consumer {name} and --no-create-streams was given: make it with "
                    f"`nats consumer add {stream} {name} --pull --deliver all --ack explicit "
                    f"--max-deliver=-1 --wait {ack_wait_s:g}s --max-pending {most_held} "
                    f"--filter {subject} --defaults`"
                )
            body = {"stream_name": stream, "config": config}
            self.request(f"CONSUMER.CREATE.{stream}.{name}.{subject}", body)
            return Consumer(ack_wait_s, most_held)
        found = there.get("config") or {}
        if found.get("ack_policy") != "explicit" or found.get("deliver_subject"):
            raise StreamConflict(
                f"consumer {name} of {stream} is no pull consumer with explicit acknowledgements: "
                "delete it, or give another name in [consumer]"
            )
        if int(found.get("max_deliver") or -1) > 0:
            raise StreamConflict(
                f"consumer {name} of {stream} gives digests up after {found['max_deliver']} "
                f"deliveries: `nats consumer edit {stream} {name} --max-deliver=-1`"
            )
        their_most = int(found.get("max_ack_pending") or 0)
        return Consumer(
            float(found.get("ack_wait") or ack_wait_s * 1e9) / 1e9,
            min(most_held, their_most) if their_most > 0 else most_held,
        )

    def standing(self, stream: str, name: str) -> Standing:
        """Raises ConsumerGone where there is none."""
        there = self._consumer_info(stream, name)
        try:
            if there is None:
                raise ConsumerGone(f"consumer {name} of {stream} is not there any more")
            return Standing(
                int(there["ack_floor"]["stream_seq"]),
                int(there["num_ack_pending"]),
                int(there["num_pending"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadAnswer("not the state of a consumer") from error

    def _consumer_info(self, stream: str, name: str) -> dict[str, Any] | None:
        try:
            return self.request(f"CONSUMER.INFO.{stream}.{name}")
        except JetStreamError as error:
            if error.err_code == NO_CONSUMER:
                return None
            raise

    # -- digests

    @property
    def pulling(self) -> bool:
        return self._pull_left > 0 and time.monotonic() < self._pull_ends

    def pull(self, stream: str, consumer: str, batch: int) -> None:
        """Have up to so many delivered, as they come. Raises ConsumerGone if the last pull ended
        with that."""
        if self._consumer_gone:
            raise ConsumerGone(self._consumer_gone)
        body = {"batch": batch, "expires": round(PULL_EXPIRES_S * 1e9)}
        what = f"{self._prefix}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._pull = self._publish_to(what, json.dumps(body).encode())
        self._pull_left = batch
        # The server ends it; one that does not say so is asked again.
        self._pull_ends = time.monotonic() + PULL_EXPIRES_S + 1.0

    def wait(self, until: float) -> None:
        """Read what comes, or until something else wakes the connection."""
        if not self.arrived:
            self._receive(until)

    def answer(self, word: bytes, replies: Iterable[bytes]) -> None:
        """ACK, NAK or IN_PROGRESS for many deliveries, with one write."""
        size = len(word)
        data = b"".join(b"PUB %b %d\r\n%b\r\n" % (reply, size, word) for reply in replies)
        if data:
            self._connection.send(data)

    def _receive(self, until: float) -> list[frames.Frame]:
        ours = []
        for frame in super()._receive(until):
            _kind, _sid, to, reply, headers, payload = frame
            if self._pull and reply is not None and reply.startswith(_ACK_SUBJECT):
                self._arrive(reply, headers, payload)
            elif to == self._pull and to:
                self._end_of_pull(headers)
            else:
                ours.append(frame)
        return ours

    def _arrive(self, reply: bytes, headers: bytes, body: bytes) -> None:
        try:
            ack = parse_ack_reply(reply)
            tokens = reply.split(b".")
            delivered = int(tokens[4] if len(tokens) == 9 else tokens[6])
        except ValueError as error:
            raise BadAnswer(f"{self._connection.url}: {error}") from error
        self._pull_left -= 1
        self.arrived.append(
            Arrived(ack.stream_seq, delivered, ack.timestamp_ns, reply, headers, body)
        )

    def _end_of_pull(self, headers: bytes) -> None:
        status = status_of(headers)
        if status == 100:
            return
        self._pull_left = 0
        text = headers.partition(b"\r\n")[0].decode("utf-8", "replace")
        if status == 503 or (status == 409 and "deleted" in text.lower()):
            self._consumer_gone = f"the consumer of digests is gone: {text}"

    # -- buckets

    def entries(
        self, stream: str, subjects: Sequence[str], *, all_of_them: bool
    ) -> dict[str, StoredMessage]:
        """The last message of each of these subjects that has one; asked for many at once.

        ``all_of_them``: raises NoAnswer or JetStreamError rather than to leave one out.
        """
        found: dict[str, StoredMessage] = {}
        deadline = time.monotonic() + ENTRIES_WITHIN_S
        what = f"{self._prefix}.STREAM.MSG.GET.{stream}"
        for first in range(0, len(subjects), TOGETHER):
            asked = {
                self._publish_to(what, json.dumps({"last_by_subj": subject}).encode()): subject
                for subject in subjects[first : first + TOGETHER]
            }
            while asked and time.monotonic() < deadline:
                for frame in self._receive(deadline):
                    if (subject := asked.pop(frame[2], "")) == "":
                        continue
                    try:
                        answer = read_answer(frame[5], what)
                        if answer is not None:
                            found[subject] = read_stored_message(answer)
                    except JetStreamError as error:
                        if error.err_code != NO_MESSAGE and all_of_them:
                            raise
            if asked and all_of_them:
                raise NoAnswer(f"{self._connection.url}: no answer in time to {what}")
        return found
