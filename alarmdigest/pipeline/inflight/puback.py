"""Confirmation with JetStream: a PubAck for each message tells that the output stream holds it.

Messages have ids that a replay makes again. What an output stream holds already is not sent again:
of what an earlier run had sent (``replay.py``), and of what was under way on a connection that was
lost or whose answers do not come (``look_up``). The streams' duplicate window catches only what was
still in flight then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from alarmdigest._ext import frames
from alarmdigest._ext.inflight import ACK_SID, DIGEST, REJECTION, InFlight
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, NatsError, NoAnswer
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.streams import StreamConfig, StreamKeeper
from alarmdigest.pipeline.batches import Outgoing, answers_in, joined
from alarmdigest.pipeline.inflight.confirmer import Answers, Confirmer, PublishBlocked
from alarmdigest.pipeline.inflight.output_identity import OutputIdentity
from alarmdigest.pipeline.inflight.puback_reader import PubAckReader
from alarmdigest.pipeline.inflight.replay import Replay
from alarmdigest.pipeline.inflight.stored_ids import StoredIdsReader
from alarmdigest.pipeline.inflight.window import InFlightBatch, Window
from alarmdigest.runtime.counters import Counter
from alarmdigest.runtime.logs import Fields
from alarmdigest.state.position import OutputPosition, Outputs, StreamPosition

log = logging.getLogger(__name__)

# Far below the 100,000 that a stream lets wait (max_buffered_msgs), so that it refuses nothing.
MAX_UNCONFIRMED_MESSAGES = 16_384
MAX_WRITE_BYTES = 1024 * 1024
ANSWER_TIMEOUT_S = 0.6
KINDS = (DIGEST, REJECTION)
EMPTY = OutputPosition("", 0)


class PubAckConfirmer(Confirmer):
    """Kinds of messages are 0 for digests and 1 for rejected ones, each with its stream."""

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
    ) -> None:
        """``stream_configs`` are those for digests and for rejected messages; ``outputs`` of the
        checkpoint. Looks things up on connections of ``reconnector``.

        ``replays``: whether messages may be read that an earlier run has read already.
        """
        super().__init__(digest_subject, rejected_subject)
        self.streams = [config.name for config in stream_configs]
        self.replay: Replay | None = None
        self._keepers = [StreamKeeper(config, create=create) for config in stream_configs]
        self._reconnector = reconnector
        self._domain = domain
        self._replays = replays
        self.add_asks = replays
        self._identity = OutputIdentity([outputs.get(name, EMPTY).created for name in self.streams])
        self._leaders = ["", ""]
        self._to_look_up = set(KINDS)
        self._in_flight = InFlight()
        for kind, name in enumerate(self.streams):
            position = outputs.get(name, EMPTY)
            self._in_flight.set_position(kind, position.sequence, position.message_id.encode())
        self._mark = b""
        self._answers = PubAckReader(self._in_flight, self.streams, digest_subject)

    # -- messages in -----------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return self._in_flight.next - self._in_flight.base > MAX_UNCONFIRMED_MESSAGES

    @property
    def looks_up_later(self) -> bool:
        return bool(self._to_look_up)

    @property
    def sent_below(self) -> int:
        return self._in_flight.all_sent_below

    @property
    def confirmed_below(self) -> int:
        return self._in_flight.base

    def add(self, batches: Sequence[Outgoing], go_on: Callable[[], bool]) -> InFlightBatch | None:
        first, records = self._in_flight.next, joined(batches)
        if self.replay is None or not self.replay.readers:
            self._in_flight.add(records)
            answers = answers_in(batches)
        else:
            answers = []
            for batch in batches:
                stored = self.replay.decide(batch.records, go_on)
                if stored is None:
                    return None
                number, count = self._in_flight.add(batch.records)
                for number_in_batch in stored:
                    self._in_flight.confirm(number + number_in_batch)
                # Of a digest in several parts some may be there: at most so many are answered now.
                if answered := min(batch.answered, count - len(stored)):
                    answers.append((batch.read_at, answered))
            self._count()
        return InFlightBatch(records, first, self._in_flight.next - first, answers)

    def requests_passed(self, position: StreamPosition, *, replay_ended: bool) -> None:
        self._mark = b"Alarmdigest-Stored-Through: %d %d\r\n" % (
            position.sequence,
            position.timestamp_ns,
        )
        if self.replay is None:
            return
        self.replay.requests_passed(position.sequence)
        if replay_ended:
            self._end_replay(self.replay)

    def _end_replay(self, replay: Replay) -> None:
        for kind, reader in enumerate(replay.readers):
            if left := len(reader.ids):
                # Most often of requests before the checkpoint: the position that it noted is a
                # cautious one. After a change of settings, what was made with the old ones.
                log.debug("in the output streams and not of this replay:%s", Fields(count=left))
            if reader.ids.sequence > self._in_flight.position(kind)[0]:
                self._in_flight.set_position(kind, reader.ids.sequence, reader.ids.newest_id)
        replay.close()
        replay.readers.clear()
        self.add_asks = False

    # -- looking up ------------------------------------------------------------------------------

    def on_connected(self, connection: Connection) -> None:
        self._to_look_up = set(KINDS)
        inbox = connection.new_inbox()
        self._in_flight.set_inbox(inbox.encode())
        connection.send(f"SUB {inbox}.*  {ACK_SID}\r\n".encode())

    def look_up(self, window: Window, go_on: Callable[[], bool], *, rest_only: bool) -> bool:
        if not rest_only:
            self._to_look_up.update(kind for kind in KINDS if self._in_flight.floor(kind) >= 0)
        infos = self._ask_leaders(self._to_look_up or KINDS, go_on)
        if infos is None:
            return False
        for kind, info in infos.items():
            self._leaders[kind] = info.leader
            if not self._find_stored(kind, info, window, go_on):
                return False
            self._in_flight.unsend(kind)
            self._to_look_up.discard(kind)
        if self.replay is None:  # the first time both streams have answered
            self._begin_replay([infos[kind] for kind in KINDS])
        self._count()
        return True

    def check_streams(self, go_on: Callable[[], bool]) -> bool:
        return self._ask_leaders(KINDS, go_on) is not None

    def first_under_way(self) -> tuple[int, int]:
        return self._in_flight.first_under_way()

    def lost_track(self, go_on: Callable[[], bool]) -> bool:
        under_way = [kind for kind in KINDS if self._in_flight.floor(kind) >= 0]
        infos = self._ask_leaders(under_way, go_on)
        lost = not self._answers.trusts_answers
        for kind, info in (infos or {}).items():
            before = self._leaders[kind]
            lost = lost or kind in self._to_look_up
            lost = lost or (before != "" and info.leader != "" and before != info.leader)
        return lost

    def _ask_leaders(
        self, kinds: Iterable[int], go_on: Callable[[], bool]
    ) -> dict[int, StreamInfo] | None:
        """What the leaders of the streams say, by kind of message; None when we shall not go on.

        Once it is known what the streams hold, nobody waits for that of the rejected messages:
        where it has no leader, or cannot be used, it is left out.
        """
        connection = self._reconnector.connect_with_backoff(go_on)
        if connection is None:
            return None
        infos = {}
        try:
            patience_s = max(ANSWER_TIMEOUT_S, 4 * connection.round_trip_s)
            js = JetStream(connection, domain=self._domain, timeout_s=patience_s)
            for kind in sorted(kinds):
                try:
                    info = self._keepers[kind].ensure(js)
                    self._check_identity(js, kind, info)
                    infos[kind] = info
                except ConnectionLost:
                    raise
                except NatsError as error:
                    if kind == DIGEST or self.replay is None:
                        raise
                    self._trouble("rejected messages cannot be published and wait", reason=error)
        except (ConnectionLost, NoAnswer):
            self._reconnector.avoid(connection)  # another server may hear the stream's leader
            raise
        finally:
            connection.close()
        return infos

    def _check_identity(self, js: JetStream, kind: int, info: StreamInfo) -> None:
        """Compare the stream with the one that we know, by the message at our position; forget
        what is not true any more where it is another one, or lost its tail."""
        self._answers.set_domain(kind, info.domain)
        sequence, message_id = self._in_flight.position(kind)
        if self._identity.seems_recreated(kind, info):
            self._to_look_up.add(kind)
        if self.replay is None and not self._replays:
            # All that we make is new to it.
            self._in_flight.set_position(kind, info.last_seq)
        elif (
            sequence_left := self._identity.check(js, kind, info, sequence, message_id)
        ) is not None:
            self._truncate(kind, sequence_left, info)

    def _truncate(self, kind: int, sequence: int, info: StreamInfo) -> None:
        self._in_flight.set_position(kind, sequence)
        self._in_flight.lower_floors(kind, sequence)
        if self.replay is not None and self.replay.readers:
            reader = self.replay.readers[kind]
            if sequence == 0:
                reader.restart(info.last_seq)
            else:
                reader.truncate(sequence)

    def _find_stored(
        self, kind: int, info: StreamInfo, window: Window, go_on: Callable[[], bool]
    ) -> bool:
        """Confirm what the stream holds of what was sent to it."""
        floor = self._in_flight.floor(kind)
        if floor < 0 or info.last_seq <= floor:
            return True
        reader = StoredIdsReader(
            self._reconnector, info.name, domain=self._domain, after=floor, end=info.last_seq
        )
        try:
            while not reader.done:
                try:
                    reader.read(go_on)
                except ConnectionLost:
                    if not reader.was_silent:
                        raise
                if not go_on():
                    return False
        finally:
            reader.close()
        for batch in window.batches:
            for number, sequence in reader.ids.take_made(batch.records, kind)[0]:
                self._in_flight.confirm(batch.first + number, sequence)
        self._count()
        return True

    def _begin_replay(self, infos: list[StreamInfo]) -> None:
        readers = [
            StoredIdsReader(
                self._reconnector,
                info.name,
                domain=self._domain,
                after=self._in_flight.position(kind)[0],
                end=info.last_seq,
            )
            for kind, info in enumerate(infos)
        ]
        if all(reader.done for reader in readers):
            readers.clear()
        else:
            behind = [
                max(
                    0,
                    info.last_seq - max(info.first_seq - 1, self._in_flight.position(kind)[0]),
                )
                for kind, info in enumerate(infos)
            ]
            log.info(
                "the output streams hold messages behind the checkpoint, which a replay does not "
                "publish again:%s",
                Fields(digests=behind[0], rejections=behind[1]),
            )
        self.replay = Replay(readers)
        self.add_asks = bool(readers)

    # -- messages out ----------------------------------------------------------------------------

    @property
    def sendable(self) -> bool:
        return self._in_flight.sendable and self.under_way < MAX_UNCONFIRMED_MESSAGES

    def send(self, connection: Connection, most: int) -> PublishBlocked | None:
        room = min(most, MAX_UNCONFIRMED_MESSAGES) - self._in_flight.outstanding
        problem = None
        while room > 0 and self._in_flight.sendable:
            wire, messages, unpublishable, largest, marked = self._in_flight.frame(
                self.digest_subject,
                self.rejected_subject,
                connection.max_payload,
                room,
                MAX_WRITE_BYTES,
                self._mark,
            )
            if marked:
                self._mark = b""
            for number in unpublishable:
                if self._in_flight.kind_of(number) == DIGEST:
                    problem = self.too_large(largest, connection.max_payload)
                else:
                    self._answers.give_up(number)
            if messages:
                connection.send(wire)
            room -= messages
        self.resent = self._in_flight.resent
        self._count()
        return problem

    def retry(self) -> None:
        self._in_flight.retry_failed()

    # -- answers ---------------------------------------------------------------------------------

    def read(self, buffer: bytearray, end: int) -> Answers:
        answers = Answers(self._in_flight.scan(buffer, 0, end))
        for kind, number, headers, text in self._in_flight.take_other():
            if number >= 0:
                if blocked := self._answers.on_answer(number, headers, text):
                    answers.blocked.append(blocked)
            elif kind not in (frames.MSG, frames.HMSG):
                answers.control.append((kind, text))
        self._count()
        return answers

    def on_pong(self, pongs: int) -> None:
        """A PONG says nothing of streams."""

    def on_server_error(self, message: str) -> PublishBlocked | None:
        if f'"{self.rejected_subject.decode()}"' not in message:
            # Which one it was is not said.
            for number in self._in_flight.unanswered(DIGEST):
                self._in_flight.on_publish_error(number)
            self._count()
            return PublishBlocked(message)
        self._trouble("the server does not let us publish rejections", reason=message)
        for number in self._in_flight.unanswered(REJECTION):
            self._answers.give_up(number)
        return None

    # -- what is confirmed -----------------------------------------------------------------------

    def output_positions(self) -> Outputs:
        found = {}
        for kind, name in enumerate(self.streams):
            sequence, message_id = self._in_flight.position(kind)
            if self.replay is not None and self.replay.readers:
                sequence, message_id = self.replay.position(kind, (sequence, message_id))
            found[name] = OutputPosition(
                self._identity.created[kind], sequence, message_id.decode()
            )
        return found

    @property
    def stream_changes(self) -> dict[str, int]:
        return self._identity.changes

    def counters(self) -> list[Counter]:
        return [
            Counter(
                "duplicates",
                self._answers.duplicates,
                "Messages that JetStream knew already: the output stream holds each once.",
            ),
            Counter(
                "replay_suppressed",
                sum(self.replay.suppressed) if self.replay is not None else 0,
                "Messages of a replay that the output streams held already; not published again.",
            ),
            Counter(
                "foreign_answers",
                self._answers.foreign_answers,
                "Answers of streams that are not meant to what we published; they confirm nothing.",
            ),
        ]

    def _count(self) -> None:
        self.rejections_given_up = self._answers.given_up
        self.under_way, self.failed = self._in_flight.outstanding, self._in_flight.failed
        suppressed = self.replay.suppressed if self.replay is not None else [0, 0]
        self.digests = self._in_flight.digests - sum(suppressed[:1])
        self.rejections = (
            self._in_flight.rejections - self.rejections_given_up - sum(suppressed[1:])
        )
