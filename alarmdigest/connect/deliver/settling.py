"""What has become of messages: recorded first, then their digests are acknowledged."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from alarmdigest.connect.deliver.consumer import ACK, DigestJetStream
from alarmdigest.connect.deliver.dead_letters import Dead, messages_of
from alarmdigest.connect.deliver.delivered import DEAD, SENT, Delivered
from alarmdigest.connect.deliver.deliveries import Delivery, Held
from alarmdigest.connect.deliver.digests import Digest
from alarmdigest.connect.deliver.intake import Intake
from alarmdigest.connect.deliver.lanes import Item
from alarmdigest.connect.deliver.pool import Outcome
from alarmdigest.connect.deliver.routes import StorageRules
from alarmdigest.connect.deliver.told import Told
from alarmdigest.connect.publishing import NO_STREAM, Outgoing
from alarmdigest.nats.errors import StreamMissing
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.runtime.logs import Fields, LimitedLog, Untrusted

log = logging.getLogger(__name__)

# After a dead letter that was not stored.
TRY_AGAIN_S = 2.0


class _Grave(NamedTuple):
    """A dead letter to be stored, for the delivery that it is of."""

    dead: Dead
    delivery: Delivery


class Settling:
    """Belongs to the thread that owns the connection; its counters may be read by others.

    What cannot be stored because the connection is lost is stored over the next one.
    """

    def __init__(
        self,
        storage: StorageRules,
        delivered: Delivered,
        told: Told,
        held: Held,
        intake: Intake,
        on_recorded: Callable[[Item], None],
    ) -> None:
        """``on_recorded`` lets the lane of a message that was sent go on."""
        self._storage = storage
        self._delivered, self._told = delivered, told
        self._held, self._intake = held, intake
        self._on_recorded = on_recorded
        self._sent: list[Outcome] = []
        self._graves: list[_Grave] = []
        self._through: list[Delivery] = []
        self._again_at = 0.0
        self.sent: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()
        self.unrecorded = 0
        self.sending_s = Histogram()
        self._trouble = LimitedLog(log, logging.WARNING)
        self._told_dead = LimitedLog(log, logging.WARNING)

    # -- what comes

    def outcome(self, outcome: Outcome) -> None:
        if outcome.what == "sent":
            self._sent.append(outcome)
            item = outcome.item
            self.sent[item.way.target.name] += 1
            self.sending_s.observe(max(0.0, (time.time_ns() - item.delivery.made_ns) / 1e9))
            return
        item = outcome.item
        ids = set(item.message.digest_ids)
        parts = [part for part in item.delivery.parts if part.digest_id in ids]
        dead = Dead(
            item.delivery.user_id,
            item.way.target.name,
            outcome.why,
            item.reason,
            item.attempts,
            parts,
            item.way.address,
        )
        self._graves.append(_Grave(dead, item.delivery))

    def ended(self, delivery: Delivery, dead: Iterable[Dead]) -> None:
        """A delivery that was put into its lanes, or needs none."""
        graves = [_Grave(one, delivery) for one in dead]
        delivery.left += len(graves)
        self._graves += graves
        if not delivery.left:
            self._through.append(delivery)

    def unreadable(self, digest: Digest, why: str) -> None:
        self.ended(Delivery("", [digest]), [Dead("", "", "unreadable", why, 0, [digest])])

    def forget_all(self) -> None:
        """Others deal with our digests now. What was sent is still recorded."""
        self._graves.clear()
        self._through.clear()

    def catch_up_with_the_log(self, *, at_once: bool = False) -> None:
        """Say how many lines were left out; call it now and then, and at the end."""
        self._trouble.catch_up(at_once=at_once)
        self._told_dead.catch_up(at_once=at_once)

    # -- what is stored

    @property
    def waiting(self) -> bool:
        return bool(self._sent or self._graves or self._through)

    def store(self, js: DigestJetStream) -> None:
        """Raises what requests raise: then nothing is lost, and it is done again."""
        if self._sent:
            self._record_sent(js)
        if self._graves and time.monotonic() >= self._again_at:
            self._bury(js)
        if self._through:
            self._acknowledge(js)

    def _record_sent(self, js: DigestJetStream) -> None:
        entries: list[Outgoing] = []
        for item in (outcome.item for outcome in self._sent):
            entries += [
                self._delivered.entry(one, item.way.address, item.way.target.name, SENT)
                for one in item.message.digest_ids
            ]
        self._publish(js, entries)
        sent, self._sent = self._sent, []
        for item in (outcome.item for outcome in sent):
            item.delivery.sent += 1
            self._on_recorded(item)
            self._leave(item.delivery)

    def _publish(self, js: DigestJetStream, entries: Sequence[Outgoing]) -> None:
        """What cannot be recorded is counted: it keeps nothing from being acknowledged."""
        for outcome in js.publish_all(entries):
            if outcome.problem.startswith(NO_STREAM):
                raise StreamMissing(outcome.problem)  # it is made again, and this is done again
            if outcome.problem:
                self.unrecorded += 1
                self._trouble("not recorded as delivered", reason=outcome.problem)

    def _leave(self, delivery: Delivery) -> None:
        delivery.left -= 1
        if delivery.left == 0:
            self._through.append(delivery)

    def _bury(self, js: DigestJetStream) -> None:
        graves = self._graves
        messages = [messages_of(grave.dead, self._storage, js.max_payload) for grave in graves]
        outcomes = iter(js.publish_all([one for some in messages for one in some]))
        left: list[_Grave] = []
        buried: list[_Grave] = []
        for grave, some in zip(graves, messages, strict=True):
            problems = [one.problem for one in (next(outcomes) for _ in some) if one.problem]
            if problems and problems[0].startswith(NO_STREAM):
                raise StreamMissing(problems[0])
            if problems:
                self._trouble("a dead letter is not stored", reason=problems[0])
                left.append(grave)
            else:
                buried.append(grave)
        if left:
            self._again_at = time.monotonic() + TRY_AGAIN_S
        self._publish(
            js,
            [
                self._delivered.entry(part.digest_id, dead.address, dead.target, DEAD)
                for dead, _delivery in buried
                if dead.address
                for part in dead.parts
            ],
        )
        self._graves = left
        for dead, delivery in buried:
            self.dead[dead.reason] += 1
            self._told_dead(
                "not delivered, kept as a dead letter",
                dead.reason,
                user=Untrusted(dead.user_id),
                target=dead.target,
                detail=dead.detail,
                attempts=dead.attempts,
            )
            self._leave(delivery)

    def _acknowledge(self, js: DigestJetStream) -> None:
        told = [
            self._told.entry(one.user_id, one.told_through)
            for one in self._through
            if one.sent and one.told_through is not None
        ]
        self._publish(js, told)
        replies: list[bytes] = []
        through, self._through = self._through, []
        for delivery in through:
            for part in delivery.parts:
                self._intake.settled(part)
            replies += self._held.remove(delivery.parts)
        js.answer(ACK, replies)
        log.debug("acknowledged%s", Fields(digests=len(replies)))
