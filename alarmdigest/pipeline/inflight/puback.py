"""Confirmation with JetStream: a PubAck for each message tells that the output stream holds it.

Messages have ids that a replay makes again. What an output stream holds already is not sent again:
of what an earlier run had sent (``already_stored.py``), and of what was under way on a connection
that was lost or whose answers do not come (``stream_lookup.py``). The streams' duplicate window
catches only what was being stored then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alarmdigest._ext import frames
from alarmdigest._ext.inflight import ACK_SID, DIGEST, REJECTION, InFlight
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.stream_configs import StreamConfig
from alarmdigest.pipeline.batches import Outgoing, joined, requests_in
from alarmdigest.pipeline.inflight.blocked import PublishBlocked
from alarmdigest.pipeline.inflight.confirmer import Confirmer, ReadResult
from alarmdigest.pipeline.inflight.puback_reader import PubAckReader
from alarmdigest.pipeline.inflight.stream_lookup import StreamLookup
from alarmdigest.pipeline.inflight.window import InFlightBatch
from alarmdigest.runtime.counters import Counter
from alarmdigest.state.position import Outputs

# Far below the 100,000 that a stream lets wait (max_buffered_msgs), so that it refuses nothing.
MAX_UNCONFIRMED_MESSAGES = 16_384
# What is framed is still in the processor's cache when it is written.
MAX_WRITE_BYTES = 256 * 1024


class PubAckConfirmer(Confirmer):
    """Kinds of messages are DIGEST and REJECTION, each with its stream."""

    def __init__(
        self,
        digest_subject: str,
        rejected_subject: str,
        stream_configs: tuple[StreamConfig, StreamConfig],
        reconnector: Reconnector,
        *,
        create: bool,
        domain: str,
        outputs: Outputs,
        replays: bool,
        lookup_class: type[StreamLookup] = StreamLookup,
    ) -> None:
        """``stream_configs`` are those for digests and for rejected messages; ``outputs`` of the
        checkpoint. Looks things up on connections of ``reconnector``.

        ``replays``: whether messages may be read that an earlier run has read already.
        """
        super().__init__(digest_subject, rejected_subject)
        self._in_flight = InFlight()
        streams = [config.name for config in stream_configs]
        self._acks = PubAckReader(self._in_flight, streams, digest_subject)
        self.lookup: StreamLookup = lookup_class(
            stream_configs,
            reconnector,
            self._in_flight,
            self._acks,
            create=create,
            domain=domain,
            outputs=outputs,
            replays=replays,
            on_found=self._count,
        )

    @property
    def stored_arrival_ns(self) -> int:
        """Whatever comes from input that arrived up to this time, in ns since 1970, is stored; 0
        where nobody says so."""
        return 0

    # -- messages in -----------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return self._in_flight.next - self._in_flight.base > MAX_UNCONFIRMED_MESSAGES

    @property
    def sent_below(self) -> int:
        return self._in_flight.all_sent_below

    @property
    def confirmed_below(self) -> int:
        return self._in_flight.base

    def add(self, batches: Sequence[Outgoing], go_on: Callable[[], bool]) -> InFlightBatch | None:
        first, records = self._in_flight.next, joined(batches)
        comparing = self.lookup.comparing_stored
        if comparing is None:
            self._in_flight.add(records, self.stored_arrival_ns)
            answered_requests = requests_in(batches)
        else:
            answered_requests = []
            for batch in batches:
                stored = comparing.decide(batch.records, go_on)
                if stored is None:
                    return None
                number, count = self._in_flight.add(batch.records, self.stored_arrival_ns)
                for number_in_batch in stored:
                    self._in_flight.confirm(number + number_in_batch)
                # Of a digest in several parts some may be there: at most so many are answered now.
                if answered := min(batch.answered, count - len(stored)):
                    answered_requests.append((batch.age_from, answered))
            self._count()
        return InFlightBatch(records, first, self._in_flight.next - first, answered_requests)

    def on_connected(self, connection: Connection) -> None:
        self.lookup.on_connected()
        inbox = connection.new_inbox()
        self._in_flight.set_inbox(inbox.encode())
        connection.send(f"SUB {inbox}.*  {ACK_SID}\r\n".encode())

    # -- messages out ----------------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        return self._in_flight.sendable and self.under_way < MAX_UNCONFIRMED_MESSAGES

    def send(self, connection: Connection, most: int) -> PublishBlocked | None:
        room = min(most, MAX_UNCONFIRMED_MESSAGES) - self._in_flight.under_way
        problem = None
        while room > 0 and self._in_flight.sendable:
            wire, messages, unpublishable, largest, marked = self._in_flight.frame(
                self.digest_subject,
                self.rejected_subject,
                connection.max_payload,
                room,
                MAX_WRITE_BYTES,
                self.lookup.mark,
            )
            if marked:
                self.lookup.mark = b""
            for number in unpublishable:
                if self._in_flight.kind_of(number) == DIGEST:
                    problem = self.too_large(largest, connection.max_payload)
                else:
                    self._acks.give_up(number)
            if messages:
                connection.send(wire)
            room -= messages
        self.resent = self._in_flight.resent
        self._count()
        return problem

    def retry(self) -> None:
        self._in_flight.retry_failed()

    # -- answers ---------------------------------------------------------------------------------

    def read(self, buffer: bytearray, end: int) -> ReadResult:
        result = ReadResult(self._in_flight.scan(buffer, 0, end))
        for frame_kind, number, headers, text in self._in_flight.take_other():
            if number >= 0:
                if blocked := self._acks.on_answer(number, headers, text):
                    result.blocked.append(blocked)
            elif frame_kind not in (frames.MSG, frames.HMSG):
                result.control.append((frame_kind, text))
        self._count()
        return result

    def on_pong(self, pongs: int) -> None:
        """A PONG says nothing of streams."""

    def on_server_error(self, message: str) -> PublishBlocked | None:
        if f'"{self.rejected_subject.decode()}"' not in message:
            # Which one it was is not said.
            for number in self._in_flight.numbers_under_way(DIGEST):
                self._in_flight.on_publish_error(number)
            self._count()
            return PublishBlocked(message)
        self._trouble("the server does not let us publish rejections", reason=message)
        for number in self._in_flight.numbers_under_way(REJECTION):
            self._acks.give_up(number)
        return None

    # -- what is confirmed -----------------------------------------------------------------------

    def counters(self) -> list[Counter]:
        stored = self.lookup.already_stored
        return [
            Counter(
                "duplicates",
                self._acks.duplicates,
                "Messages that JetStream knew already: the output stream holds each once.",
            ),
            Counter(
                "replay_suppressed",
                sum(stored.suppressed) if stored is not None else 0,
                "Messages of a replay that the output streams held already; not published again.",
            ),
            Counter(
                "foreign_answers",
                self._acks.foreign_answers,
                "Answers of streams that are not meant to what we published; they confirm nothing.",
            ),
        ]

    def _count(self) -> None:
        self.rejections_given_up = self._acks.given_up
        self.under_way, self.failed = self._in_flight.under_way, self._in_flight.failed
        stored = self.lookup.already_stored
        suppressed = stored.suppressed if stored is not None else [0, 0]
        self.digests = self._in_flight.digests - suppressed[DIGEST]
        self.rejections = (
            self._in_flight.rejections - self.rejections_given_up - suppressed[REJECTION]
        )
