"""What waits to be sent: one lane for each filled URL, in order, and what may go next.

A lane has one message under way at a time, so a user gets his in order by each target. A lane that
fails pauses, longer each time, and holds up no other one. Of one endpoint (scheme, host and port) a
few lanes may be under way at once, and one while it fails: what hangs there takes no more of the
threads.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from alarmdigest.connect.deliver.addresses import Endpoint, endpoint_of
from alarmdigest.connect.deliver.rates import Rate, RateLimit
from alarmdigest.connect.deliver.routes import SendingRules, Way
from alarmdigest.runtime.logs import LimitedLog, Untrusted

if TYPE_CHECKING:
    from alarmdigest.connect.deliver.deliveries import Delivery
    from alarmdigest.connect.deliver.message import Message

log = logging.getLogger(__name__)

# A lane that has failed so often may have to make room.
EVICT_AFTER_FAILURES = 5


@dataclass(slots=True, eq=False)
class _Place:
    """An endpoint, which has so many ``lanes``. Those that are ``parked`` could go, had it room."""

    endpoint: Endpoint
    lanes: int = 0
    sending: int = 0
    failures: int = 0
    parked: deque[Lane] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Lane:
    """``queued`` while it stands among what goes next, or is parked."""

    address: str
    place: _Place
    items: deque[Item] = field(default_factory=deque)
    sending: bool = False
    queued: bool = False
    failures: int = 0


@dataclass(slots=True, eq=False)
class Item:
    """One message for one target. ``waits_since`` is of time.monotonic()."""

    delivery: Delivery
    message: Message
    way: Way
    waits_since: float = field(default_factory=time.monotonic)
    attempts: int = 0
    reason: str = ""
    lane: Lane | None = None
    #: Where it goes by routes that are newer than the attempt that is under way.
    new_way: Callable[[Item], Way] | None = None


class LaneFigures(NamedTuple):
    """``oldest_s`` is how long the oldest waits, 0 for none."""

    waiting: int
    blocked: int
    oldest_s: float


class Lanes:
    """Used by several threads. ``may_send`` is asked before each message."""

    def __init__(self, rules: SendingRules, may_send: Callable[[], bool]) -> None:
        self._rules = rules
        self.most_attempts = rules.attempts
        self._may_send = may_send
        self._changed = threading.Condition()
        self._lanes: dict[str, Lane] = {}
        self._places: dict[Endpoint, _Place] = {}
        self._limits: dict[str, RateLimit] = {}
        self._next: list[tuple[float, int, Lane]] = []
        self._number = itertools.count()
        self.closed = False
        self.failed_attempts = 0
        self.retries = 0
        self._not_taken = LimitedLog(log, logging.WARNING)

    # -- what comes

    def put(self, item: Item) -> None:
        with self._changed:
            self._put(item)
            self._changed.notify()

    def _put(self, item: Item, *, first: bool = False) -> None:
        """``first``: before all that wait there."""
        address = item.way.address
        lane = self._lanes.get(address)
        if lane is None:
            endpoint = endpoint_of(address)
            place = self._places.setdefault(endpoint, _Place(endpoint))
            place.lanes += 1
            lane = self._lanes[address] = Lane(address, place)
        item.lane = lane
        if first:
            lane.items.insert(int(lane.sending), item)
        else:
            lane.items.append(item)
        self._queue(lane, 0.0)

    def _queue(self, lane: Lane, at: float) -> None:
        """Have it go at this time; nothing where it does so anyway."""
        if lane.items and not lane.queued and not lane.sending:
            lane.queued = True
            heapq.heappush(self._next, (at, next(self._number), lane))

    # -- what goes

    def take(self, timeout_s: float) -> Item | None:
        """The next message that may be sent; whoever takes it says what became of it. None where
        there is none in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while (now := time.monotonic()) < deadline:
                wake_at = deadline
                if not self.closed and self._may_send():
                    if (item := self._take(now)) is not None:
                        return item
                    wake_at = min(deadline, self._next[0][0]) if self._next else deadline
                self._changed.wait(max(0.001, wake_at - now))
        return None

    def _take(self, now: float) -> Item | None:
        while self._next and self._next[0][0] <= now:
            _at, _number, lane = heapq.heappop(self._next)
            lane.queued = False
            if not lane.items:  # they were moved or taken away
                self._go_on(lane, 0.0)
                continue
            place, target = lane.place, lane.items[0].way.target
            if place.sending >= self._most_at_once(place):
                lane.queued = True
                place.parked.append(lane)
                continue
            limit = self._limit(target.name, target.rate)
            if limit is not None and (wait_s := limit.wait_s(now)) > 0:
                self._queue(lane, now + wait_s)
                continue
            if limit is not None:
                limit.take(now)
            lane.sending = True
            place.sending += 1
            self.retries += lane.items[0].attempts > 0
            return lane.items[0]
        return None

    def _most_at_once(self, place: _Place) -> int:
        """One where as many attempts in a row failed as may be made at once is tried by one."""
        most = self._rules.per_endpoint
        return 1 if place.failures >= most else most

    def _limit(self, name: str, allowed: Rate | None) -> RateLimit | None:
        if allowed is None:
            return None
        limit = self._limits.get(name)
        if limit is None or limit.allowed != allowed:
            limit = self._limits[name] = RateLimit(allowed)
        return limit

    # -- what became of it

    def sent(self, item: Item) -> None:
        """It was taken: others of its endpoint may go. Its lane waits for ``settled``, so that a
        crash leaves at most one message of a lane that was sent and is not recorded."""
        with self._changed:
            assert item.lane is not None
            item.lane.failures = 0
            self._leave(item.lane.place, failed=False)

    def settled(self, item: Item) -> None:
        """That is recorded: the lane goes on."""
        with self._changed:
            lane = item.lane
            assert lane is not None
            lane.sending = False
            if lane.items and lane.items[0] is item:
                lane.items.popleft()
            self._go_on(lane, 0.0)
            self._changed.notify_all()

    def failed(self, item: Item, reason: str) -> list[Item]:
        """It is tried again after a pause; or it is given up, with those behind it that have grown
        too old for an attempt of their own: these leave the lane."""
        rules, now = self._rules, time.monotonic()
        item.attempts += 1
        item.reason = reason
        given_up: list[Item] = []
        with self._changed:
            self.failed_attempts += 1
            lane = item.lane
            assert lane is not None
            lane.sending = False
            self._leave(lane.place, failed=True)
            if not lane.items or lane.items[0] is not item:
                return []  # cleared away meanwhile
            if self._moved(item, lane):
                return []
            lane.failures += 1
            if item.attempts >= rules.attempts:
                given_up.append(lane.items.popleft())
            while lane.items and now - lane.items[0].waits_since > rules.give_up_after.seconds:
                given_up.append(lane.items.popleft())
            longest_s = rules.longest_pause.seconds
            pause_s = min(rules.first_pause.seconds * 2 ** min(lane.failures - 1, 30), longest_s)
            pause_s *= random.uniform(0.5, 1.0)
            self._go_on(lane, now + pause_s)
            if lane.items and lane.items[0] is item:
                self._not_taken(
                    "not taken, it is tried again",
                    item.way.target.name,
                    target=item.way.target.name,
                    user=Untrusted(item.delivery.user_id),
                    reason=Untrusted(reason),
                    attempts=item.attempts,
                    again_in_seconds=round(pause_s, 1),
                )
        for one in given_up:
            one.reason = one.reason or reason
        return given_up

    def _moved(self, item: Item, lane: Lane) -> bool:
        """Whether it goes elsewhere by new routes; it begins anew there."""
        new_way, item.new_way = item.new_way, None
        way = new_way(item) if new_way is not None else item.way
        if not way.address or way.address == lane.address:
            return False
        lane.items.popleft()
        self._go_on(lane, 0.0)
        item.way, item.attempts = way, 0
        self._put(item, first=True)
        return True

    def _leave(self, place: _Place, *, failed: bool) -> None:
        """An attempt has ended, so others of the endpoint may go."""
        place.sending -= 1
        place.failures = place.failures + 1 if failed else 0
        for _ in range(min(len(place.parked), self._most_at_once(place) - place.sending)):
            parked = place.parked.popleft()
            parked.queued = False
            self._queue(parked, 0.0)
        self._changed.notify_all()

    def _go_on(self, lane: Lane, at: float) -> None:
        if lane.items:
            self._queue(lane, at)
        elif self._lanes.get(lane.address) is lane:
            del self._lanes[lane.address]
            lane.place.lanes -= 1
            if not lane.place.lanes and self._places.get(lane.place.endpoint) is lane.place:
                del self._places[lane.place.endpoint]

    # -- all of them

    def evict(self, count: int, *, crowded: int) -> list[Item]:
        """The oldest of lanes that keep failing, or that hold more than ``crowded``, at most so
        many: they leave them. First those whose digests wait for nothing else, and so are through
        with it."""
        with self._changed:
            blocked: list[Item] = []
            for lane in self._lanes.values():
                waiting = list(itertools.islice(lane.items, int(lane.sending), None))
                if lane.failures < EVICT_AFTER_FAILURES:
                    waiting = waiting[: max(0, len(lane.items) - crowded)]
                blocked += waiting
            blocked.sort(key=lambda item: (item.delivery.left > 1, item.waits_since))
            evicted = blocked[:count]
            for item in evicted:
                assert item.lane is not None
                item.lane.items.remove(item)
        return evicted

    def clear(self) -> None:
        """Forget all; what is being sent ends, and is reported, all the same."""
        with self._changed:
            for lane in self._lanes.values():
                lane.items.clear()
            self._lanes.clear()
            self._places.clear()
            self._next.clear()

    def reroute(self, new_way: Callable[[Item], Way]) -> None:
        """Ask for each item where it goes now; those that go elsewhere begin there anew, in their
        order. What is being sent is asked for once that has failed."""
        with self._changed:
            moved: list[Item] = []
            for lane in self._lanes.values():
                kept = list(itertools.islice(lane.items, int(lane.sending)))
                for item in kept:
                    item.new_way = new_way
                for item in itertools.islice(lane.items, int(lane.sending), None):
                    way = new_way(item)
                    if way.address == lane.address or not way.address:
                        item.way = way if way.address else item.way
                        kept.append(item)
                    else:
                        item.way, item.attempts = way, 0
                        moved.append(item)
                lane.items = deque(kept)
            for item in moved:
                self._put(item)
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent."""
        with self._changed:
            return not any(place.sending for place in self._places.values())

    def figures(self) -> LaneFigures:
        now = time.monotonic()
        with self._changed:
            lanes = list(self._lanes.values())
            return LaneFigures(
                sum(len(lane.items) for lane in lanes),
                sum(lane.failures > 0 for lane in lanes),
                max((now - lane.items[0].waits_since for lane in lanes if lane.items), default=0.0),
            )
