"""From digests whose turn it is to messages in the lanes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from alarmdigest.connect.deliver.composer import Composer
from alarmdigest.connect.deliver.consumer import DigestJetStream
from alarmdigest.connect.deliver.dead_letters import Dead
from alarmdigest.connect.deliver.delivered import Delivered
from alarmdigest.connect.deliver.deliveries import Delivery, Held
from alarmdigest.connect.deliver.digests import Assembler, Digest, ids_of
from alarmdigest.connect.deliver.lanes import Item, Lanes
from alarmdigest.connect.deliver.message import CLEARED, CRITICAL, WARNING, Message
from alarmdigest.connect.deliver.routes import Routes, Way
from alarmdigest.connect.deliver.told import Told

# Of a line with its short texts, as Python keeps it.
LINE_BYTES = 400


class Ended(NamedTuple):
    """A delivery that is through without a send: ``dead`` are those of its targets (or the one
    that it lacks) for which that must be recorded first."""

    delivery: Delivery
    dead: list[Dead]


class Dispatch:
    """Belongs to the thread that owns the connection. ``routes`` may be replaced."""

    def __init__(
        self,
        routes: Callable[[], Routes],
        part_wait_s: float,
        composer: Composer,
        told: Told,
        delivered: Delivered,
        lanes: Lanes,
        held: Held,
    ) -> None:
        self._routes = routes
        self._assembler = Assembler(part_wait_s)
        self._composer, self._told, self._delivered = composer, told, delivered
        self._lanes = lanes
        self._held = held
        self._whole: deque[Sequence[Digest]] = deque()
        self.duplicates = 0
        self.filtered = 0

    def add(self, digest: Digest, now: float) -> None:
        self._whole.extend(self._assembler.add(digest, now))

    def clear(self) -> None:
        self._assembler.clear()
        self._whole.clear()

    @property
    def next_at(self) -> float | None:
        return 0.0 if self._whole else self._assembler.next_at

    def one(self, js: DigestJetStream, now: float) -> Ended | None:
        """Put one message into its lanes; what of it ends there already, if anything does.

        Raises what requests raise: then the digest is still here.
        """
        self._whole.extend(self._assembler.due(now))
        if not self._whole:
            return None
        ended = self._dispatch(js, self._whole[0])
        self._whole.popleft()
        return ended

    def _dispatch(self, js: DigestJetStream, parts: Sequence[Digest]) -> Ended:
        user_id = parts[0].user_id
        delivery = Delivery(user_id, parts)
        ways = self._routes().ways(user_id)
        if not ways:
            detail = "no route covers this user: add one to the file of --routes"
            return Ended(delivery, [Dead(user_id, "", "no_route", detail, 0, parts)])
        worst = worst_of(parts)
        wanted = [way for way in ways if way.wants(worst)]
        self.filtered += len(ways) - len(wanted)
        dead = [
            Dead(user_id, way.target.name, "no_address", way.problem, 0, parts)
            for way in wanted
            if way.problem
        ]
        reachable = [way for way in wanted if not way.problem]
        missing = self._delivered.missing(js, parts, [way.address for way in reachable])
        left = [way for way in reachable if missing[way.address]]
        self.duplicates += len(reachable) - len(left)
        if left:
            self._put(js, delivery, left, missing)
        return Ended(delivery, dead)

    def _put(
        self,
        js: DigestJetStream,
        delivery: Delivery,
        ways: Sequence[Way],
        missing: dict[str, list[Digest]],
    ) -> None:
        user_id = delivery.user_id
        through = self._told.through(js, user_id)
        messages: dict[tuple[str, ...], Message] = {}
        for way in ways:
            some = missing[way.address]
            ids = ids_of(some)
            if ids not in messages:
                composed = self._composer.compose(js, some, through)
                messages[ids] = composed.message
                self._held.add_weight(some[0], weight_of(composed.message))
                delivery.told_through = composed.told_through
        if delivery.told_through is not None:
            self._told.note(user_id, delivery.told_through)
        delivery.left = len(ways)
        for way in ways:
            ids = ids_of(missing[way.address])
            self._lanes.put(Item(delivery, messages[ids], way))


def weight_of(message: Message) -> int:
    """What it takes in memory, roughly: a user may have very many active alarms."""
    lines = (*message.new, *message.still_active, *message.cleared)
    return sum(LINE_BYTES + 2 * (len(one.alarm_id) + len(one.description)) for one in lines)


def worst_of(parts: Sequence[Digest]) -> str:
    """Of what is new in them."""
    found = {alarm.status for part in parts for alarm in part.alarms}
    return next((one for one in (CRITICAL, WARNING) if one in found), CLEARED)
