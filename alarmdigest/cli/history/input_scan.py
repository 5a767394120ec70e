"""One user's messages of the input stream, read as the service reads them.

Subjects tell no user, so every message since a moment is read; by the service's own source and
router, which routes this user's only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import mmh3

from alarmdigest._ext import frames
from alarmdigest._ext.router import EVENT, FORGET, REQUEST, DeliveryGap, Router
from alarmdigest.cli.client import connect
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import ConnectionLost, NatsError
from alarmdigest.nats.receive_buffer import ReceiveBuffer
from alarmdigest.pipeline.packed_records import event_of, split_routed
from alarmdigest.pipeline.server_checks import stream_configs_of
from alarmdigest.pipeline.sources.pull_consumer import PullConsumerSource
from alarmdigest.settings import Settings
from alarmdigest.wire.buckets import BUCKETS
from alarmdigest.wire.messages import Rejected, may_be_about, parse_leniently, rejected_alarm

TICK_S = 0.1
SILENT_FOR_S = 20.0
CLOSE_S = 1.0
KINDS: Final = {EVENT: "event", REQUEST: "request", FORGET: "forget"}


@dataclass(frozen=True, slots=True)
class Input:
    """One message. Times in ns since 1970. ``record`` is what the rule takes; empty, with the
    reason, for one that was rejected."""

    sequence: int
    stored_ns: int
    kind: str
    record: bytes = b""
    alarm_id: str = ""
    status: int = 0
    changed_ns: int = 0
    clamped: bool = False
    reason: str = ""
    detail: str = ""


class InputScan:
    """Reads from ``since_ns`` to what is the stream's end now. All of it raises NatsError."""

    def __init__(self, settings: Settings, user_id: str, since_ns: int, info: StreamInfo) -> None:
        self._user = user_id.encode()
        self._last = info.last_seq
        self._connection = connect(settings, "alarmdigest-history")
        self._rejected: list[Input] = []
        self._open = False
        try:
            self._begin(settings, since_ns)
        except BaseException:
            self.close()
            raise
        self.first = self._router.sequence + 1
        """The first message that it reads."""

    def _begin(self, settings: Settings, since_ns: int) -> None:
        self._source = PullConsumerSource(
            stream_configs_of(settings)[0],
            create=False,
            domain=settings.js_domain,
            start=since_ns,
            position=None,
        )
        self._router = Router(
            workers=1,
            buckets=BUCKETS,
            hash32=mmh3.hash,
            skew_ns=settings.clock_skew,
            read_or_reject=self._read_or_reject,
            event_subject=settings.event_subject.encode(),
            request_subject=settings.request_subject.encode(),
            forget_subject=settings.forget_subject.encode(),
            only_user=self._user,
        )
        self._buffer = ReceiveBuffer()
        self._source.open(self._connection, self._router, None)
        self._open = True

    @property
    def left(self) -> int:
        """How many messages are to be read."""
        return max(0, self._last - self._router.sequence)

    @property
    def deleted(self) -> int:
        """How many of those that it has come to were not there any more."""
        return self._router.deleted

    def close(self) -> None:
        try:
            if self._open:
                # What goes wrong here costs nothing: the server forgets the consumer by itself.
                with suppress(NatsError, frames.ProtocolError):
                    self._source.stop(self._connection)
                    self._read_on(CLOSE_S)
        finally:
            self._connection.close()

    def _read_on(self, most_s: float) -> None:
        """Until the server has seen what we sent last: it would not, if the connection were closed
        with anything in it that was not read."""
        connection, deadline = self._connection, time.monotonic() + most_s
        wanted = connection.send_ping()
        while connection.pongs < wanted and time.monotonic() < deadline:
            if self._buffer.receive(connection, TICK_S):
                found, position = frames.scan(self._buffer.data, 0, self._buffer.filled)
                self._buffer.drop_before(connection, position)
                for kind, *_rest, text in found:
                    if kind not in (frames.MSG, frames.HMSG):
                        connection.handle(kind, text)

    def batches(self) -> Iterator[list[Input]]:
        """This user's messages in their order; one list, maybe empty, after each read."""
        silent_until = time.monotonic() + SILENT_FOR_S
        while self.left and not self._at_the_end():
            before = self._router.sequence
            self._read()
            yield self._taken()
            if self._router.sequence != before:
                silent_until = time.monotonic() + SILENT_FOR_S
            elif time.monotonic() > silent_until:
                raise ConnectionLost(f"{self._connection.url}: the stream is silent")

    def _at_the_end(self) -> bool:
        """Whether nothing is left, though the numbers say so: it was deleted."""
        return self._router.pending == 0 and self._source.behind(self._router) == 0

    def _read(self) -> None:
        connection, router, buffer = self._connection, self._router, self._buffer
        if buffer.receive(connection, TICK_S):
            position, now_ns = 0, time.time_ns()
            try:
                while (end := router.scan(buffer.data, position, buffer.filled, now_ns)) > position:
                    position = end
            except (frames.ProtocolError, DeliveryGap) as error:
                raise ConnectionLost(f"{connection.url}: {error}") from error
            buffer.drop_before(connection, position)
        self._source.hear(connection, router)
        for kind, text in router.take_other():
            if kind in (frames.MSG, frames.HMSG):
                self._source.status(text, router)
            elif refused := connection.handle(kind, text):
                raise ConnectionLost(f"{connection.url}: the server said: {refused}")
        self._source.request_more(connection, router, pause=False)
        connection.keep_alive()

    def _taken(self) -> list[Input]:
        records, places = split_routed(self._router.take(0)), self._router.take_places()
        taken, self._rejected = self._rejected, []
        for (record, kind), (sequence, stored_ns, clamped, _) in zip(records, places, strict=True):
            if kind == EVENT:
                alarm_id, status, changed_ns = event_of(record)
            else:
                alarm_id, status, changed_ns = "", 0, 0
            taken.append(
                Input(
                    sequence=sequence,
                    stored_ns=stored_ns,
                    kind=KINDS[kind],
                    record=record,
                    alarm_id=alarm_id,
                    status=status,
                    changed_ns=changed_ns,
                    clamped=clamped,
                )
            )
        # What came in since we began has its digests where we have not looked.
        return sorted((one for one in taken if one.sequence <= self._last), key=_sequence)

    def _read_or_reject(
        self, kind: int, payload: bytes, _subject: bytes, position: tuple[int, int, int] | None
    ) -> tuple[bytes, bytes, int, int] | None:
        try:
            return parse_leniently(kind, payload)
        except Rejected as rejected:
            if position is not None and may_be_about(self._user, payload):
                self._rejected.append(
                    Input(
                        sequence=position[0],
                        stored_ns=position[1],
                        kind=KINDS[kind],
                        alarm_id=rejected_alarm(payload),
                        reason=rejected.reason,
                        detail=rejected.detail,
                    )
                )
            return None


def _sequence(one: Input) -> int:
    return one.sequence
