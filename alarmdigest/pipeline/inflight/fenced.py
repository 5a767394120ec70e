"""Confirmation in a group: only the leader sends, and its stream checks that it still leads.

Every digest expects our leader message to be the last one. Few digests go one at a time, more as an
atomic batch, and one batch is on its way at a time: at several stream replicas JetStream takes
nothing else that expects the same message meanwhile.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from alarmdigest._ext import frames
from alarmdigest._ext.digest_sums import DigestSums
from alarmdigest._ext.inflight import DIGEST
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.object_bucket import NO_ROOM
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.stream_configs import StreamConfig
from alarmdigest.pipeline.batches import Outgoing
from alarmdigest.pipeline.inflight.blocked import PublishBlocked
from alarmdigest.pipeline.inflight.confirmer import ReadResult
from alarmdigest.pipeline.inflight.group_lookup import GroupLookup
from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
from alarmdigest.pipeline.inflight.puback_reader import (
    MESSAGE_TOO_LARGE,
    STORE_FAILED,
    read_answer,
)
from alarmdigest.pipeline.inflight.window import MAX_UNCONFIRMED_BYTES, InFlightBatch
from alarmdigest.replication.election import WRONG_LAST_SEQUENCE
from alarmdigest.replication.exchange import Exchange, Identity
from alarmdigest.replication.group_start import GroupStart
from alarmdigest.replication.leadership import Leadership
from alarmdigest.replication.subjects import leader_subject
from alarmdigest.replication.word import Word
from alarmdigest.state.position import Outputs

#: JetStream takes at most so many messages as one atomic batch.
MAX_BATCH_MESSAGES = 1000
MAX_BATCH_BYTES = 4 * 1024 * 1024
#: A batch costs the server some three syncs of its disk, a message none.
BATCH_FROM = 8
#: More messages than this server takes as one batch.
TOO_LARGE_A_BATCH = 10199
NO_RESPONDERS = b"NATS/1.0 503"


class FencedConfirmer(PubAckConfirmer):
    """What a follower has in flight is bounded in bytes only (``Window``), and not sent."""

    lookup: GroupLookup

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
        word: Word,
        sums: DigestSums,
        exchange: Exchange,
        identity: Identity,
        content: dict[str, Any],
        start: GroupStart,
        on_diverged: Callable[[str], None],
    ) -> None:
        """``word`` and ``sums`` are those of the checkpoint; the rest is as for
        ``GroupLookup.begin``."""
        super().__init__(
            digest_subject,
            rejected_subject,
            stream_configs,
            reconnector,
            create=create,
            domain=domain,
            outputs=outputs,
            replays=True,
            lookup_class=GroupLookup,
        )
        self.leadership = Leadership(identity.incarnation, word)
        self.lookup.begin(self.leadership, sums, exchange, identity, content, start, on_diverged)
        self._leader_subject = leader_subject(identity.group).encode()
        self._stream = stream_configs[DIGEST].name
        self._last = 0  # the number of the last digest that is under way; 0: none is
        self._batch = b""  # the id of the batch that is under way
        self._batch_count = 0
        # How many digests may go as one batch: fewer after one that the server does not take whole.
        self._most_together = self._server_takes = MAX_BATCH_MESSAGES

    @property
    def full(self) -> bool:
        return False

    @property
    def sendable(self) -> bool:
        # A look-up has every digest that is under way listed again.
        waits = self._last and self._in_flight.is_under_way(self._last)
        return self.leadership.leads and not waits and self._in_flight.sendable

    def add(self, batches: Sequence[Outgoing], go_on: Callable[[], bool]) -> InFlightBatch | None:
        for batch in batches:
            self.lookup.sums.add(batch.records)
        if self._in_flight.listed_bytes > MAX_UNCONFIRMED_BYTES and not self.leadership.leads:
            self.lookup.shorten()
        before = self._stored_elsewhere()
        added = super().add(batches, go_on)
        for kind, (new, old) in enumerate(zip(self._stored_elsewhere(), before, strict=True)):
            self.lookup.by_others[kind] += new - old
        self._count()
        return added

    def _stored_elsewhere(self) -> tuple[int, int]:
        """Messages, by kind, that are confirmed and were not found to be stored when they were
        added."""
        stored = self.lookup.already_stored
        suppressed = sum(stored.suppressed) if stored is not None else 0
        return self._in_flight.digests - suppressed, self._in_flight.rejections

    @property
    def stored_arrival_ns(self) -> int:
        """A follower lets go nothing before it has compared itself with the leader's word, unless
        its list is too long. Who leads goes by the word that it was elected with, however far
        behind that it is: all up to there is stored, and perhaps before the place from which it has
        read."""
        if self.leadership.leads:
            return self.leadership.word.through
        return self.lookup.comparison.stored_through

    def on_connected(self, connection: Connection) -> None:
        super().on_connected(connection)
        connection.watch(self.lookup.heed.fileno())
        self._end_batch()

    def send(self, connection: Connection, most: int) -> PublishBlocked | None:
        if not self.sendable:
            return None
        batch = secrets.token_hex(11).encode()
        wire, digests, rejections, last, unpublishable, largest, marked = (
            self._in_flight.frame_fenced(
                self.digest_subject,
                self.rejected_subject,
                connection.max_payload,
                min(most, self._most_together),
                MAX_BATCH_BYTES,
                b"Nats-Expected-Last-Subject-Sequence: %d\r\n"
                b"Nats-Expected-Last-Subject-Sequence-Subject: %b\r\n"
                % (self.leadership.token, self._leader_subject),
                b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: " % batch,
                BATCH_FROM,
                self.lookup.mark,
            )
        )
        problem = None
        for number in unpublishable:
            if self._in_flight.kind_of(number) == DIGEST:
                problem = self.too_large(largest, connection.max_payload)
            else:
                self._acks.give_up(number)
        if marked:
            self.lookup.mark = b""
        self._last = last
        self._batch, self._batch_count = (batch, digests) if digests > 1 else (b"", digests)
        self._in_flight.atomic_batch_under_way = digests > 1
        if digests or rejections:
            connection.send(wire)
        self.resent = self._in_flight.resent
        self._count()
        return problem

    # -- answers ---------------------------------------------------------------------------------

    def read(self, buffer: bytearray, end: int) -> ReadResult:
        stored = self._in_flight.digests
        answers = ReadResult(self._in_flight.scan(buffer, 0, end))
        if self._in_flight.digests > stored:  # by PubAcks that nobody here sees
            self._on_stored()
        for kind, number, headers, text in self._in_flight.take_other():
            if number < 0:
                if kind not in (frames.MSG, frames.HMSG):
                    answers.control.append((kind, text))
                continue
            is_digest = self._in_flight.kind_of(number) == DIGEST
            if is_digest and self._takes(number, headers, text, answers):
                continue
            if blocked := self._acks.on_answer(number, headers, text):
                answers.blocked.append(blocked)
        self._count()
        return answers

    def _takes(self, number: int, headers: bytes, text: bytes, answers: ReadResult) -> bool:
        """Whether an answer about a digest was one that only a group gets."""
        if self._batch and not text:
            # Else the first message of a batch has arrived.
            return not headers.startswith(NO_RESPONDERS)
        answer = read_answer(text) or {}
        error = answer.get("error")
        if isinstance(error, dict):
            return self._on_error(number, error, answers)
        if self._batch and number == self._last and answer.get("batch") == self._batch.decode():
            sequence = answer.get("seq")
            if (
                answer.get("stream") == self._stream
                and (answer.get("domain") or "") == self._acks.domain(DIGEST)
                and answer.get("count") == self._batch_count
                and isinstance(sequence, int)
                and sequence > 0
            ):
                self._in_flight.confirm_batch(number, sequence)
                self._on_stored()
                self._end_batch()
            return True
        # While a batch is under way nothing else is an answer to it.
        return bool(self._batch)

    def _on_stored(self) -> None:
        self.lookup.note_room(room=True)
        self._most_together = min(2 * self._most_together, self._server_takes)

    def _end_batch(self) -> None:
        self._last, self._batch = 0, b""
        self._in_flight.atomic_batch_under_way = False

    def _on_error(self, number: int, error: dict[str, Any], answers: ReadResult) -> bool:
        code = error.get("err_code")
        self.lookup.note_room(room=code not in NO_ROOM)
        if code == WRONG_LAST_SEQUENCE:
            self.lookup.unsure = "the digest stream has another leader message than ours"
            return True
        if code == STORE_FAILED and self._batch:
            for one in self._in_flight.numbers_under_way(DIGEST):
                self._in_flight.on_publish_error(one)
            self._end_batch()
            answers.blocked.append(PublishBlocked(f"{self._stream} is full"))
            return True
        if code in (STORE_FAILED, MESSAGE_TOO_LARGE) and not self._batch:
            return False  # as without a group
        # Neither yes nor no: what was sent may be stored, now or later. And one message that cannot
        # be stored keeps a whole batch from it: by itself it is told so, and the others go on.
        self._most_together = max(1, self._batch_count // 2)
        if code == TOO_LARGE_A_BATCH:
            self._server_takes = self._most_together
        self.lookup.unsure = f"{self._stream} has answered with error {code}"
        return True

    def _count(self) -> None:
        super()._count()
        digests, rejections = self.lookup.by_others
        self.digests -= digests
        self.rejections -= rejections
