"""What a replica knows of the digest stream: by the leader's word, and, once elected, by reading.

A follower sends nothing: the leader's word says what is stored. Who is elected reads the stream
from where that word leaves off through its own leader message. Then it knows all that any earlier
leader has stored, and no more of that can come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from alarmdigest._ext.digest_sums import DigestSums
from alarmdigest._ext.inflight import DIGEST
from alarmdigest._ext.timestamps import to_ns
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import StreamConflict
from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.pipeline.inflight.already_stored import AlreadyStored
from alarmdigest.pipeline.inflight.candidacy import Candidacy
from alarmdigest.pipeline.inflight.comparison import Comparison
from alarmdigest.pipeline.inflight.renewal import Renewal
from alarmdigest.pipeline.inflight.stored_ids import StoredIdsReader
from alarmdigest.pipeline.inflight.stream_lookup import KINDS, StreamLookup
from alarmdigest.pipeline.inflight.window import Window
from alarmdigest.replication.exchange import Exchange, Identity
from alarmdigest.replication.group_start import GroupStart
from alarmdigest.replication.leadership import Asking, Leadership
from alarmdigest.replication.word import Word
from alarmdigest.runtime import failpoints
from alarmdigest.runtime.logs import Fields
from alarmdigest.state.position import OutputPosition, Outputs, ReplicaPosition, StreamPosition

log = logging.getLogger(__name__)


class GroupLookup(StreamLookup):
    """``by_others`` counts, by kind, messages in flight that another replica was found to have had
    stored."""

    def begin(
        self,
        leadership: Leadership,
        sums: DigestSums,
        exchange: Exchange,
        identity: Identity,
        content: dict[str, Any],
        start: GroupStart,
        on_diverged: Callable[[str], None],
    ) -> None:
        """Call it once, first. ``content`` is what all replicas must have in common, ``start`` says
        how their state came about. ``on_diverged`` is told why this replica is not to lead any
        more."""
        self.leadership = leadership
        self.heed = exchange.heed
        self.sums = sums
        self.by_others = [0, 0]
        self.unsure = ""
        self._no_room = False
        self._exchange = exchange
        self._identity_in_group = identity
        self._start = start.first
        told = {
            "content": content,
            "start": start.first,
            "settings_since_ns": start.settings_since_ns,
        }
        self._candidacy = Candidacy(
            leadership,
            exchange,
            self._reconnector,
            self.streams[DIGEST],
            self._domain,
            identity,
            told,
        )
        self._stand_asked = exchange.stand_asked
        self._made_sequence = 0
        self._digests_info: StreamInfo | None = None
        self._renewal = Renewal()
        self._renews = False
        self._looked_into = 0  # a leader message of another that we have heeded
        self.comparison = Comparison(leadership, sums, exchange, on_diverged)

    # -- called in each round of the publisher -----------------------------------------------------

    def others_reason_to_look_up(self) -> str:
        exchange, leadership = self._exchange, self.leadership
        exchange.heed.clear()
        comparison, word = self.comparison, leadership.word
        # Who is behind the word has nothing that waits for the leader. Else all that is in flight
        # lies beyond it.
        is_behind = comparison.stored_through < word.through
        if not is_behind and self._in_flight.base < self._in_flight.next:
            exchange.waits_at = time.monotonic()
        exchange.progress = self._in_flight.digests
        # What was refused by itself is not another leader's to store, either.
        exchange.full = self._no_room or self._in_flight.failed > 0
        if exchange.stand_asked != self._stand_asked and not leadership.leads:
            return "standing for leader"
        if not leadership.leads:
            self._hear_word()
            return ""
        if exchange.outvoted and not exchange.diverged:
            self.comparison.diverge(
                "most replicas have made other digests than this one, which leads"
            )
        if exchange.last_of_others > leadership.token and (
            exchange.last_of_others != self._looked_into
        ):
            self._looked_into = exchange.last_of_others
            return "another replica may lead"
        newest = self._in_flight.position(DIGEST)[0]
        may_renew = self.unsure == "" and self._in_flight.under_way == 0
        if may_renew and self._renewal.ask_whether_due(
            self._digests_info, leadership.token, newest
        ):
            self._renews = True
            return "the leader message is renewed before the stream's limits remove it"
        return self.unsure

    def note_room(self, *, room: bool) -> None:
        """Whether the digest stream has room, as far as its last answer tells."""
        self._no_room = not room

    @property
    def needs_more(self) -> bool:
        return self.comparison.needs_more

    def shorten(self) -> None:
        """There is too much in flight to wait for a comparison: let go what the word says is
        stored. Were the leader wrong, nobody else could publish that any more."""
        if self.comparison.excuse():
            self._let_go(self.leadership.word)

    def _hear_word(self) -> None:
        if (word := self.comparison.hear()) is not None:
            self._let_go(word)

    def _let_go(self, word: Word) -> None:
        for kind, count in enumerate(self._in_flight.confirm_through(word.through)):
            self.by_others[kind] += count
        self._on_found()

    # -- barriers ----------------------------------------------------------------------------------

    def on_barrier_gathered(self, barrier: Barrier) -> ReplicaPosition:
        digests, ids = self.comparison.made(barrier.arrival_ns)
        if not self.leadership.leads:
            self._hear_word()
        sequence = barrier.position.sequence if barrier.position is not None else 0
        self._made_sequence = sequence
        made = Word(barrier.arrival_ns, sequence, digests=digests, ids=ids)
        group = self._identity_in_group.group
        return ReplicaPosition(digests, f"{ids:032x}", made.to_json(), self._start, group)

    def covers(self, barrier: Barrier) -> bool:
        if self._exchange.diverged:
            return False  # a state that most others do not have is not kept
        return self.leadership.leads or barrier.arrival_ns <= self.comparison.stored_through

    def checkpoint_of(
        self, made: ReplicaPosition | None, outputs: Outputs
    ) -> tuple[Outputs, ReplicaPosition | None]:
        assert made is not None
        barrier = Word.from_json(made.word)
        name = self.streams[DIGEST]
        if self.leadership.leads and barrier.through > self.leadership.word.through:
            first, before = outputs[name], self.leadership.word
            word = replace(
                barrier,
                after=first.sequence,
                after_id=first.message_id,
                token=self.leadership.token,
            )
            if before.after > word.after:  # of a barrier from before we were elected
                word = replace(word, after=before.after, after_id=before.after_id)
            self.leadership.speak(word)
            self.comparison.spoke(word)
        # Only what we have made ourselves, too, unless it is what we were elected with.
        word = self.leadership.word if self.leadership.leads else self.comparison.agreed
        kept = OutputPosition(outputs[name].created, word.after, word.after_id)
        return {**outputs, name: kept}, replace(made, word=word.to_json())

    def output_positions(self) -> Outputs:
        """A follower knows only the place of the word: what it knew when it led itself, if it did,
        may lie behind what others have stored for later input, and it may be elected again before
        the barrier is complete."""
        positions = {}
        for kind, name in enumerate(self.streams):
            sequence, message_id = self._in_flight.position(kind)
            if kind == DIGEST and not self.leadership.leads:
                agreed = self.comparison.agreed
                sequence, message_id = agreed.after, agreed.after_id.encode()
            elif kind == DIGEST and (stored := self.comparing_stored) is not None:
                sequence, message_id = stored.position(kind, (sequence, message_id))
            positions[name] = OutputPosition(
                self._identity.created[kind], sequence, message_id.decode()
            )
        return positions

    def _truncate(self, kind: int, sequence: int, info: StreamInfo) -> None:
        self._in_flight.set_position(kind, sequence)
        self._in_flight.lower_floors(kind, sequence)
        word = self.leadership.word
        if kind == DIGEST and word.after > sequence:
            self.leadership.word = replace(word, after=sequence, after_id="")

    # -- looking up: becoming, or staying, the leader ----------------------------------------------

    def look_up(self, window: Window, go_on: Callable[[], bool], *, only_left: bool) -> bool:
        try:
            infos = self._ensure_with_leaders(KINDS, go_on)
        except StreamConflict:
            self.note_room(room=False)  # nor could another leader use it
            raise
        if infos is None:
            return False
        self.note_room(room=True)
        self._digests_info = infos[DIGEST]
        for kind, info in infos.items():
            self._leaders[kind] = info.leader
        self._to_look_up.clear()
        if self.already_stored is None:
            self.already_stored = AlreadyStored(())
            self.add_may_ask = False
        leadership, exchange = self.leadership, self._exchange
        asked = exchange.stand_asked
        # In doubt, who leads must not be one of those that disagree.
        in_time = time.monotonic() < exchange.stand_until
        may = in_time and not (exchange.in_doubt or exchange.diverged)
        stands = asked != self._stand_asked and may
        self._stand_asked = asked
        if leadership.token and self._renews:
            asking = leadership.renew()
        elif leadership.token:
            asking = leadership.confirm()
        elif stands:
            asking = leadership.stand()
        else:
            exchange.stands = False
            self._line_up_again()
            return True
        try:
            return self._elect(asking, window, go_on)
        finally:
            if made := self._identity.created[DIGEST]:
                exchange.stream_made_ns = to_ns(made)
            exchange.token = leadership.token if leadership.leads else 0
            exchange.stuck = exchange.stands = self._renews = False
            exchange.stood = True
            exchange.news.wake()

    def _elect(self, asking: Asking, window: Window, go_on: Callable[[], bool]) -> bool:
        failpoints.reach("election.before")
        led = self.leadership.leads
        meant = self.streams[DIGEST], self._acks.domain(DIGEST)
        elected = self._candidacy.ask(asking, meant, partial(self._take_found, window), go_on)
        if elected is None:
            return False
        self._line_up_again()
        self.unsure = ""
        if elected:
            self._renewal.note_elected()
            self._exchange.elections += 1
            log.info(
                "leading the group%s",
                Fields(
                    group=self._identity_in_group.group,
                    name=self._identity_in_group.name,
                    token=self.leadership.token,
                    again=led,
                ),
            )
        else:
            self._close_replay()
            self._exchange.lost_elections += 1
            log.info("not elected%s", Fields(was_leader=led))
        failpoints.reach("election.after")
        return True

    def _line_up_again(self) -> None:
        """Whatever was sent and is not known to be stored stands in the line again, in order."""
        for kind in KINDS:
            self._in_flight.unsend(kind)
        self._on_found()

    def _take_found(self, window: Window, reader: StoredIdsReader, token: int) -> None:
        """What is in flight is confirmed by what was read, and what has not been made yet is kept
        until it is."""
        for batch in window.batches:
            for number, sequence in reader.ids.take_made(batch.records, DIGEST)[0]:
                if self._in_flight.kind_of(batch.first + number) == DIGEST:
                    self._in_flight.confirm(batch.first + number, sequence)
                    self.by_others[DIGEST] += 1
        # What the word confirms may lie before what was read.
        self._let_go(self.leadership.word)
        reader.ids.drop_passed(self._made_sequence)
        self._close_replay()
        self._in_flight.set_position(DIGEST, token)
        self.already_stored = AlreadyStored([reader] if len(reader.ids) else ())
        self._on_found()

    def _close_replay(self) -> None:
        if self.already_stored is not None:
            self.by_others[DIGEST] += sum(self.already_stored.suppressed)
        self.already_stored = AlreadyStored(())

    def note_stored_through(self, position: StreamPosition, *, replay_ended: bool) -> None:
        self.mark = b"Alarmdigest-Stored-Through: %d %d\r\n" % (
            position.sequence,
            position.timestamp_ns,
        )
        if (stored := self.comparing_stored) is not None:
            stored.note_stored_through(position.sequence)
            if not any(len(reader.ids) for reader in stored.readers):
                self._close_replay()  # from here on everything is new
