"""What the leader of a stream says, asked while it is read.

A consumer's server may hang or lag behind, and then knows no better than to say that there is
nothing; and while the cluster has nobody who leads it as a whole, no other consumer can be made.
The stream's own leader knows what the stream holds, and gives out its messages one by one.
"""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from alarmdigest._ext import timestamps
from alarmdigest._ext.router import STREAM_SID, Router
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.jetstream import NO_MESSAGE
from alarmdigest.pipeline.sources.questions import Questions

# How often the leader is asked for the end of the stream, and for how long its answer holds.
LOOK_EVERY_S = 1.0
KNOWN_FOR_S = 3.0
LONGEST_LOOK_S = 0.3
# So many messages are asked for at once; and when there was none, so much later again.
READ_AHEAD = 64
AGAIN_AFTER_S = 0.05

Answer: TypeAlias = "dict[str, Any] | JetStreamError"
Message: TypeAlias = "dict[str, Any]"


class LeaderWatch:
    """How far the router is behind the stream, as the stream's leader sees it."""

    def __init__(self, questions: Questions, router: Router, info: StreamInfo) -> None:
        """``info`` must be fresh."""
        self._questions = questions
        self._router = router
        self._stream = info.name
        self._answered_at = time.monotonic()
        self._look_at = self._answered_at + LOOK_EVERY_S
        self._waiting = False
        self._last_seq = info.last_seq
        self._nothing_after = -1  # the sequence after which the leader had nothing
        self._checked_at = time.monotonic()
        # The sequence after which the leader has a message, and for how long it is known that
        # nobody has brought it, in seconds.
        self._missing = -1
        self.missing_s = 0.0

    def check(self, *, expecting: bool) -> None:
        """Call it often. ``expecting``: what the leader has should be on its way to us."""
        now = time.monotonic()
        # No longer than between two looks of who looks often: we may have been busy with ourselves.
        elapsed, self._checked_at = min(now - self._checked_at, LONGEST_LOOK_S), now
        if not expecting:
            self._missing = -1
        self.missing_s += elapsed
        if self._missing != self._router.sequence:
            self.missing_s = 0.0
        if now < self._look_at or self._waiting:
            return
        self._look_at = now + LOOK_EVERY_S
        self._waiting = True
        self._questions.ask(f"STREAM.INFO.{self._stream}", {}, self._looked)

    @property
    def behind(self) -> int | None:
        """Messages that the stream holds after ours; None when its leader has not said lately."""
        if time.monotonic() - self._answered_at > KNOWN_FOR_S:
            return None
        sequence = self._router.sequence
        return 0 if self._nothing_after == sequence else max(0, self._last_seq - sequence)

    def _looked(self, answer: Answer) -> None:
        self._waiting = False
        if isinstance(answer, JetStreamError):
            return
        try:
            self._last_seq = int(answer["state"]["last_seq"])
        except (KeyError, TypeError, ValueError):
            return
        self._answered_at = time.monotonic()
        sequence = self._router.sequence
        if self._last_seq > sequence:
            # What is after ours may all have been deleted.
            ask_for(self._questions, self._stream, sequence + 1, lambda m: self._next(sequence, m))

    def _next(self, sequence: int, message: Message | None) -> None:
        if message is None:
            self._nothing_after = sequence
        else:
            self._missing = sequence


class LeaderReads:
    """Reads a stream message by message from its leader, after the router's last one: slower than
    a consumer, and independent of all servers but the leader."""

    def __init__(self, questions: Questions, router: Router, stream: str) -> None:
        self._questions = questions
        self._router = router
        self._stream = stream
        self._consumer_seq = 0
        self._on_their_way = 0
        self._found: dict[int, Message | None] = {}
        self._next_at = 0.0
        router.begin_deliveries(router.sequence, router.timestamp_ns)

    def request_more(self, *, pause: bool) -> None:
        """Route in order what has come, and ask for more unless told to pause."""
        router = self._router
        while (message := self._found.pop(router.sequence + 1, None)) is not None:
            try:
                frame = as_delivery(message, self._stream, self._consumer_seq + 1)
                router.scan(frame, 0, len(frame), time.time_ns())
            except (KeyError, TypeError, ValueError):  # not as JetStream writes it: ask again
                self._next_at = time.monotonic() + AGAIN_AFTER_S
                break
            self._consumer_seq += 1
        if pause or self._on_their_way or time.monotonic() < self._next_at:
            return
        first = router.sequence + 1
        # At the end of the stream one question is enough.
        ended = first in self._found and self._found[first] is None
        self._found.clear()
        for sequence in range(first, first + (1 if ended else READ_AHEAD)):
            self._on_their_way += 1
            take = partial(self._got, sequence)
            ask_for(self._questions, self._stream, sequence, take, partial(take, None))

    def _got(self, asked: int, message: Message | None) -> None:
        self._on_their_way -= 1
        self._found[asked] = message
        if message is None:
            self._next_at = time.monotonic() + AGAIN_AFTER_S


def ask_for(
    questions: Questions,
    stream: str,
    sequence: int,
    take: Callable[[Message | None], None],
    failed: Callable[[], None] = lambda: None,
) -> None:
    """Ask for the first message at or after a sequence; None where there is none."""

    def answered(answer: Answer) -> None:
        if isinstance(answer, JetStreamError):
            if answer.err_code == NO_MESSAGE:
                take(None)
            else:
                failed()
        elif isinstance(message := answer.get("message"), dict):
            take(message)
        else:
            failed()

    body = {"seq": sequence, "next_by_subj": ">"}
    questions.ask(f"STREAM.MSG.GET.{stream}", body, answered)


def as_delivery(message: Message, stream: str, consumer_seq: int) -> bytes:
    """A message of STREAM.MSG.GET's as a consumer delivers it. Raises ValueError, KeyError or
    TypeError for one that is not as JetStream writes it."""
    headers = b64decode(message.get("hdrs", ""))
    body = b64decode(message.get("data", ""))
    time_ns = timestamps.to_ns(message["time"])
    reply = f"$JS.ACK.{stream}.leader.1.{int(message['seq'])}.{consumer_seq}.{time_ns}.0"
    head = f"{message['subject']} {STREAM_SID} {reply}".encode()
    if not headers:
        return b"MSG %b %d\r\n%b\r\n" % (head, len(body), body)
    sizes = len(headers), len(headers) + len(body)
    return b"HMSG %b %d %d\r\n%b%b\r\n" % (head, *sizes, headers, body)
