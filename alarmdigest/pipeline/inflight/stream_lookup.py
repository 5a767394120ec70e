"""What the output streams hold of the messages in flight, and of those that a replay makes again;
and so also where they stand at a barrier, for its checkpoint.

Asked on connections of its own, so that what the publisher's connection brings is not held up.
Used by the publisher's thread only. ``group_lookup.py`` has what is different in a group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from alarmdigest._ext.inflight import DIGEST, REJECTION, InFlight
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import ConnectionLost, NatsError, NoAnswer
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.stream_configs import StreamConfig
from alarmdigest.nats.streams import StreamKeeper
from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.pipeline.inflight.already_stored import AlreadyStored
from alarmdigest.pipeline.inflight.output_identity import OutputIdentity
from alarmdigest.pipeline.inflight.puback_reader import PubAckReader
from alarmdigest.pipeline.inflight.stored_ids import StoredIdsReader
from alarmdigest.pipeline.inflight.window import Window
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.state.position import OutputPosition, Outputs, ReplicaPosition, StreamPosition

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 0.6
KINDS = (DIGEST, REJECTION)
EMPTY = OutputPosition("", 0)


class StreamLookup:
    """Kinds of messages are DIGEST and REJECTION, each with its stream.

    ``already_stored`` is None until both streams have answered once. ``add_may_ask``: whether what
    a replay makes again must be looked up before it is added. ``mark`` is a header line for the
    next digest: what belongs to requests up to it is stored.
    """

    def __init__(
        self,
        stream_configs: tuple[StreamConfig, StreamConfig],
        reconnector: Reconnector,
        in_flight: InFlight,
        acks: PubAckReader,
        *,
        create: bool,
        domain: str,
        outputs: Outputs,
        replays: bool,
        on_found: Callable[[], None],
    ) -> None:
        """``on_found`` is called when messages in flight were found to be stored. The rest is as
        for PubAckConfirmer."""
        self.streams = [config.name for config in stream_configs]
        self.already_stored: AlreadyStored | None = None
        self.add_may_ask = replays
        self.mark = b""
        self._keepers = [StreamKeeper(config, create=create) for config in stream_configs]
        self._reconnector = reconnector
        self._in_flight = in_flight
        self._acks = acks
        self._domain = domain
        self._replays = replays
        self._on_found = on_found
        self._identity = OutputIdentity([outputs.get(name, EMPTY).created for name in self.streams])
        self._leaders = ["", ""]
        self._to_look_up = set(KINDS)
        self._trouble = LimitedLog(log, logging.ERROR)
        for kind, name in enumerate(self.streams):
            position = outputs.get(name, EMPTY)
            in_flight.set_position(kind, position.sequence, position.message_id.encode())

    @property
    def comparing_stored(self) -> AlreadyStored | None:
        """``already_stored`` from the first look at the streams to the end of the replay, if they
        held anything then; else None. In a group it ends as soon as all ids are used up."""
        stored = self.already_stored
        return stored if stored is not None and stored.readers else None

    @property
    def some_left(self) -> bool:
        """Whether a stream is left to be looked up without digests waiting for it: most often that
        of rejected messages, which the last look-up left out; also one that seemed recreated
        since."""
        return bool(self._to_look_up)

    @property
    def stream_changes(self) -> dict[str, int]:
        """How often an output stream was found to be another one, or shorter, than before."""
        return self._identity.changes

    # -- in a group (``group_lookup.py``) ----------------------------------------------------------

    def others_reason_to_look_up(self) -> str:
        """Asked in each round of the publisher; empty without a reason."""
        return ""

    @property
    def needs_more(self) -> bool:
        """Whether more must be taken in although there is no room, before any of it can go."""
        return False

    def on_barrier_gathered(self, barrier: Barrier) -> ReplicaPosition | None:
        """A barrier has come from every producer: all for input up to there has been made."""
        return None

    def covers(self, barrier: Barrier) -> bool:
        """Whether a barrier is complete once nothing before it is in flight."""
        return True

    def checkpoint_of(
        self, made: ReplicaPosition | None, outputs: Outputs
    ) -> tuple[Outputs, ReplicaPosition | None]:
        """A barrier is complete: what its checkpoint says of the outputs, and of the group."""
        return outputs, None

    # -- what the streams hold ---------------------------------------------------------------------

    def on_connected(self) -> None:
        """What was under way on the connection before may be lost: look at all streams."""
        self._to_look_up = set(KINDS)

    def look_up(self, window: Window, go_on: Callable[[], bool], *, only_left: bool) -> bool:
        """Find out what is stored of what was under way, and that more can be; whether to go on.

        ``only_left``: digests go on; only what the last look-up had to leave out.

        Nothing is sent on a new connection before. What turns out not to be stored is to be sent
        again. Raises NatsError when it cannot be found out now.
        """
        if not only_left:
            self._to_look_up.update(kind for kind in KINDS if self._in_flight.floor(kind) >= 0)
        infos = self._ensure_with_leaders(self._to_look_up or KINDS, go_on)
        if infos is None:
            return False
        for kind, info in infos.items():
            self._leaders[kind] = info.leader
            if not self._find_stored(kind, info, window, go_on):
                return False
            self._in_flight.unsend(kind)
            self._to_look_up.discard(kind)
        if self.already_stored is None:  # the first time both streams have answered
            self._begin_comparing([infos[kind] for kind in KINDS])
        self._on_found()
        return True

    def ensure_streams(self, go_on: Callable[[], bool]) -> bool:
        """See that the streams are there, and make those that are not; whether to go on.

        Raises NatsError for what is wrong with them.
        """
        return self._ensure_with_leaders(KINDS, go_on) is not None

    def first_under_way(self) -> tuple[int, int]:
        """Two messages that were sent and not answered: the one whose sending is the oldest, and
        the oldest of those of which a later one of their kind is confirmed already. Each by a
        number that identifies this sending of it; 0: none."""
        return self._in_flight.first_under_way()

    def lost_track(self, go_on: Callable[[], bool]) -> bool:
        """Whether the streams have another leader than at the last look-up, or are other streams.
        Then messages that were sent may be lost and must be looked up. Raises NatsError while
        nobody can tell."""
        under_way = [kind for kind in KINDS if self._in_flight.floor(kind) >= 0]
        infos = self._ensure_with_leaders(under_way, go_on)
        lost = not self._acks.trusts_answers
        for kind, info in (infos or {}).items():
            before = self._leaders[kind]
            lost = lost or kind in self._to_look_up
            lost = lost or (before != "" and info.leader != "" and before != info.leader)
        return lost

    def _ensure_with_leaders(
        self, kinds: Iterable[int], go_on: Callable[[], bool]
    ) -> dict[int, StreamInfo] | None:
        """What the leaders of the streams say, by kind of message; None when we shall not go on.

        It makes streams that are missing; notes the domain that the answers of each must name; and
        where one is another stream than before, or has lost its tail, sets back what we know of it
        and has it looked up. Raises NatsError.

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
                    if kind == DIGEST or self.already_stored is None:
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
        self._acks.set_domain(kind, info.domain)
        # Without anything to replay, all that we make is new to a stream at the first look.
        all_is_new = self.already_stored is None and not self._replays
        position = (0, b"") if all_is_new else self._in_flight.position(kind)
        comparison = self._identity.check(js, kind, info, *position)
        if comparison.seems_recreated:
            self._to_look_up.add(kind)
        if all_is_new:
            self._in_flight.set_position(kind, info.last_seq)
        elif comparison.known_up_to is not None:
            self._truncate(kind, comparison.known_up_to, info)

    def _truncate(self, kind: int, sequence: int, info: StreamInfo) -> None:
        """Only up to this sequence the stream is the one that we know; 0: it is another one."""
        self._in_flight.set_position(kind, sequence)
        self._in_flight.lower_floors(kind, sequence)
        if stored := self.comparing_stored:
            reader = stored.readers[kind]
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
        if not reader.read_to_end(go_on, on_read=lambda _sequence: None):
            return False
        for batch in window.batches:
            for number, sequence in reader.ids.take_made(batch.records, kind)[0]:
                self._in_flight.confirm(batch.first + number, sequence)
        self._on_found()
        return True

    # -- what an earlier run has sent: compared with during a replay ------------------------------

    def _begin_comparing(self, infos: list[StreamInfo]) -> None:
        known = [self._in_flight.position(kind)[0] for kind in KINDS]
        readers = [
            StoredIdsReader(
                self._reconnector,
                info.name,
                domain=self._domain,
                after=known[kind],
                end=info.last_seq,
            )
            for kind, info in enumerate(infos)
        ]
        if all(reader.done for reader in readers):
            readers.clear()
        else:
            counts = [
                max(0, info.last_seq - max(info.first_seq - 1, known[kind]))
                for kind, info in enumerate(infos)
            ]
            log.info(
                "the output streams hold messages that a replay does not publish again:%s",
                Fields(digests=counts[0], rejections=counts[1]),
            )
        self.already_stored = AlreadyStored(readers)
        self.add_may_ask = bool(readers)

    def note_stored_through(self, position: StreamPosition, *, replay_ended: bool) -> None:
        """Everything up to this input position has been added, and is confirmed.

        ``replay_ended``: so is whatever an earlier run may have read.
        """
        self.mark = b"Alarmdigest-Stored-Through: %d %d\r\n" % (
            position.sequence,
            position.timestamp_ns,
        )
        if self.already_stored is None:
            return
        self.already_stored.note_stored_through(position.sequence)
        if replay_ended:
            self._end_comparing(self.already_stored)

    def _end_comparing(self, stored: AlreadyStored) -> None:
        for kind, reader in enumerate(stored.readers):
            if left := len(reader.ids):
                # Most often of requests before the checkpoint: the position that it noted is a
                # cautious one. After a change of settings, what was made with the old ones.
                log.debug("in the output streams and not of this replay:%s", Fields(count=left))
            if reader.ids.sequence > self._in_flight.position(kind)[0]:
                self._in_flight.set_position(kind, reader.ids.sequence, reader.ids.newest_id)
        stored.close()
        stored.readers.clear()
        self.add_may_ask = False

    def output_positions(self) -> Outputs:
        """For each output stream, a position: every message added from now on is stored after
        it."""
        positions = {}
        for kind, name in enumerate(self.streams):
            sequence, message_id = self._in_flight.position(kind)
            if stored := self.comparing_stored:
                sequence, message_id = stored.position(kind, (sequence, message_id))
            positions[name] = OutputPosition(
                self._identity.created[kind], sequence, message_id.decode()
            )
        return positions
