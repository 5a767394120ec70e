"""Confirmation with JetStream: a PubAck for each message tells that the output stream holds it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import orjson

from alarmdigest._ext import acks, frames
from alarmdigest.batches import Outgoing
from alarmdigest.confirmations.stored_ids import ids_after
from alarmdigest.confirmations.window import Held, Sent, Window, answers_in, joined
from alarmdigest.happenings import happenings
from alarmdigest.logs import Fields
from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.streams import StreamKeeper, StreamPlan
from alarmdigest.store.base import Outputs

log = logging.getLogger(__name__)

# Far below the 100,000 that a stream lets wait (max_buffered_msgs), so that it refuses nothing.
MAX_UNCONFIRMED_MESSAGES = 16_384
ACK_TIMEOUT_S = 5.0
# JetStream's answers that are about the moment, not about the message.
TOO_MANY_REQUESTS = 10167
STORE_FAILED = 10077  # it is full and discards what is new
RETRYABLE_CODES = (408, 429, 503)


class StreamWindow(Window):
    """JetStream: every message asks for a PubAck of the stream that captures its subject.

    Messages have ids that a replay makes again. At the start the ids that the output streams hold
    behind the last checkpoint are read: what the replay makes of them is taken as confirmed and not
    published again, however long ago that was. After a lost connection the same is done for
    what was on its way. The streams' duplicate window catches only what was still in flight then.
    """

    reconnects_when_held = True

    def __init__(
        self,
        digest_subject: str,
        rejected_subject: str,
        plans: tuple[StreamPlan, StreamPlan],
        *,
        create: bool,
        domain: str,
        outputs: Outputs,
        replays: bool,
    ) -> None:
        """``plans`` of the streams for digests and for refusals; ``outputs`` of the checkpoint.

        ``replays``: whether messages may be read that an earlier run has read already.
        """
        super().__init__(digest_subject, rejected_subject)
        self._keepers = [StreamKeeper(plan, create=create) for plan in plans]
        self._domain = domain
        self._streams = [plan.name for plan in plans]
        self._created = [outputs.get(name, ("", 0))[0] for name in self._streams]
        self._acks = acks.AckWindow(*(name.encode() for name in self._streams))
        for kind, name in enumerate(self._streams):
            self._acks.set_last_seq(kind, outputs.get(name, ("", 0))[1])
        # What the replay will make again: id -> place in its stream. None before the first look.
        self._known: list[dict[str, int]] | None = None if replays else [{}, {}]
        self._known_last = [0, 0]
        self._sent_up_to = 0
        self._progress_at = 0.0
        self.duplicates = 0
        self._found_again = [0, 0]
        # Times that an output stream was another one than before, or had lost its tail.
        self.made_anew = 0
        self.rolled_back = 0

    @property
    def found_again(self) -> int:
        """Messages of a replay that the output streams held already."""
        return sum(self._found_again)

    @property
    def full(self) -> bool:
        return super().full or self._acks.next - self._acks.base > MAX_UNCONFIRMED_MESSAGES

    def opened(self, connection: Connection) -> None:
        jetstream = JetStream(connection, domain=self._domain)
        stored = []
        infos = [keeper.ensure(jetstream) for keeper in self._keepers]
        for kind, info in enumerate(infos):
            self._compare(kind, info)
            stored.append(ids_after(jetstream, info.name, self._acks.get_last_seq(kind)))
        jetstream.close()
        if self._known is None:
            self._known = stored
            self._known_last = [max(ids.values(), default=0) for ids in stored]
            if any(stored):
                log.info(
                    "the output streams hold messages behind the checkpoint, which a replay does "
                    "not publish again:%s",
                    Fields(digests=len(stored[0]), refusals=len(stored[1])),
                )
        else:
            for ids in stored:
                for entry in self._sent():
                    self._acks.recognise(entry.batch, entry.first, ids, True)
        inbox = connection.new_inbox()
        self._acks.set_inbox(inbox.encode())
        connection.send(f"SUB {inbox}.*  {acks.ACK_SID}\r\n".encode())

    def _compare(self, kind: int, info: StreamInfo) -> None:
        """Forget what is not true any more of a stream that is another one, or lost its tail."""
        last, known = self._acks.get_last_seq(kind), self._known
        if info.created != self._created[kind]:
            # None of its places means anything to us. What we publish from now on is all new to a
            # stream that we see for the first time, unless we replay.
            first_look = self._created[kind] == "" and known is not None
            if self._created[kind]:
                self.made_anew += 1
                sentence = (
                    f"{info.name} was made anew at {info.created}: what it held until then is gone"
                )
                happenings.note("output_made_anew", sentence, 1)
                log.error("%s", sentence)
            self._acks.set_last_seq(kind, info.last_seq if first_look else 0)
            self._created[kind] = info.created
            if known is not None:
                known[kind], self._known_last[kind] = {}, 0
        elif info.last_seq < last:
            self.rolled_back += 1
            sentence = (
                f"{info.name} has lost its newest messages: its last is {info.last_seq}, it had "
                f"confirmed {last}"
            )
            happenings.note("output_rolled_back", sentence, 1)
            log.error("%s", sentence)
            # Whatever of ours is unconfirmed and there was among the last that it took.
            self._acks.set_last_seq(kind, max(0, info.last_seq - MAX_UNCONFIRMED_MESSAGES))
            if known is not None:
                known[kind] = {id_: at for id_, at in known[kind].items() if at <= info.last_seq}
                self._known_last[kind] = min(self._known_last[kind], info.last_seq)

    def replay_finished(self) -> None:
        if self._known is None or not any(self._known_last):
            return
        left = sum(map(len, self._known))
        if left:
            # Most often of requests before the checkpoint: the place that it noted is a cautious
            # one, see outputs(). After a change of settings, what was made with the old ones.
            log.debug("in the output streams and not of this replay:%s", Fields(count=left))
        for kind, last in enumerate(self._known_last):
            self._acks.set_last_seq(kind, max(last, self._acks.get_last_seq(kind)))
        self._known = [{}, {}]
        self._known_last = [0, 0]

    def scan(self, buffer: bytearray, end: int) -> tuple[int, list[tuple[int, bytes]]]:
        before = self._acks.base
        position = self._acks.scan(buffer, 0, end)
        others = []
        held: Held | None = None
        for kind, number, headers, text in self._acks.take_other():
            if number >= 0:
                try:
                    self._answered(number, headers, text)
                except Held as reason:
                    held = held or reason
            elif kind not in (frames.MSG, frames.HMSG):
                others.append((kind, text))
        if self._acks.base > before:
            self._progress_at = time.monotonic()
        if held is not None:
            raise held
        return position, others

    def _answered(self, number: int, headers: bytes, text: bytes) -> None:
        """An answer that is no plain PubAck. Raises Held when the digest must be sent again."""
        kind = self._acks.kind_of(number)
        if kind < 0:
            return
        name = self._streams[kind]
        if not text:
            if headers.startswith(b"NATS/1.0 503"):
                raise Held(f"no stream captures what should go into {name}")
            return
        try:
            answer = orjson.loads(text)
        except orjson.JSONDecodeError:
            return
        if not isinstance(answer, dict):
            return
        error = answer.get("error")
        if isinstance(error, dict):
            self._refused(number, kind, error)
        elif answer.get("stream") == name and isinstance(seq := answer.get("seq"), int) and seq > 0:
            if answer.get("duplicate"):
                self.duplicates += 1
                self._acks.confirm(number)
            else:
                self._acks.confirm(number, seq)
        # Whatever else: any subscriber can answer a reply subject. It confirms nothing.

    def _refused(self, number: int, kind: int, error: dict[str, object]) -> None:
        # Anybody can answer a reply subject: it must not write lines into our log.
        description = ascii(str(error.get("description", error))[:200])[1:-1]
        reason = f"{self._streams[kind]} refused a message: {description}"
        err_code = error.get("err_code")
        passing = err_code == TOO_MANY_REQUESTS or error.get("code") in RETRYABLE_CODES
        # A stream of refusals that is full would let whoever sends rubbish silence everybody.
        if kind == acks.DIGEST or (passing and err_code != STORE_FAILED):
            raise Held(reason)
        self._give_up(number)
        self._trouble("a refusal cannot be published and is given up", reason=reason)

    def _give_up(self, number: int) -> None:
        self._acks.confirm(number)
        self.refusals_given_up += 1

    def ponged(self, pongs: int) -> None:
        """A PONG says nothing of streams."""

    def server_refused(self, message: str) -> None:
        if f'"{self._rejected_subject.decode()}"' not in message:
            raise Held(message)
        self._trouble("the server does not let us publish refusals", reason=message)
        for number in range(self._acks.base, self._sent_up_to):
            if self._acks.kind_of(number) > 0:
                self._give_up(number)

    def check(self) -> None:
        waiting = self._acks.base < self._sent_up_to
        if waiting and time.monotonic() - self._progress_at > ACK_TIMEOUT_S:
            raise Held(
                f"no confirmation within {ACK_TIMEOUT_S:g} s: "
                f"do the streams {' and '.join(self._streams)} capture their subjects?"
            )

    def forget_sent(self) -> None:
        before = self._acks.base
        self.resent += self._sent_up_to - min(before, self._sent_up_to)
        self._sent_up_to = before
        super().forget_sent()

    def outputs(self) -> Outputs:
        found = {}
        for kind, name in enumerate(self._streams):
            place = self._acks.get_last_seq(kind)
            if self._known is not None and self._known[kind]:
                place = min(place, min(self._known[kind].values()) - 1)
            found[name] = (self._created[kind], place)
        return found

    def _numbered(self, batches: Sequence[Outgoing]) -> Sent:
        records = joined(batches)
        if self._known is None or not any(self._known):
            first, count = self._acks.enter(records)
            return Sent(records, first=first, count=count, answers=answers_in(batches))
        first, answers = self._acks.next, []
        for batch in batches:
            number, count = self._acks.enter(batch.records)
            to_send = count - self._recognised(batch.records, number)
            # At most so many are answered now: of a digest in several parts some may be there.
            if answered := min(batch.answered, to_send):
                answers.append((batch.read_at, answered))
        return Sent(records, first=first, count=self._acks.next - first, answers=answers)

    def _recognised(self, records: bytes, first: int) -> int:
        """How many of these the output streams hold already; they need not be sent."""
        found = 0
        for kind, ids in enumerate(self._known or ()):
            if ids:
                again = self._acks.recognise(records, first, ids, False)
                self._found_again[kind] += again
                found += again
        return found

    def _write(self, connection: Connection, entry: Sent) -> None:
        wire, messages, largest, left_out = self._acks.to_wire(
            entry.batch,
            entry.first,
            self._digest_subject,
            self._rejected_subject,
            connection.max_payload,
        )
        if largest > connection.max_payload:
            raise self._too_large(largest, connection)
        for number in left_out:
            self._give_up(number)
        if messages:
            if self._acks.base >= self._sent_up_to:
                self._progress_at = time.monotonic()
            connection.send(wire)
        self._sent_up_to = entry.first + entry.count

    def _confirmed(self, entry: Sent) -> bool:
        return self._acks.base >= entry.first + entry.count

    def _count(self, entry: Sent) -> None:
        self.digests = self._acks.digests - self._found_again[0]
        self.refusals = self._acks.refusals - self.refusals_given_up - self._found_again[1]
