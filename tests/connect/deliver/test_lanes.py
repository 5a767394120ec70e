"""What may go next, without processes: order, pauses, endpoints, rates, and who makes room."""

from __future__ import annotations

import time
from zoneinfo import ZoneInfo

from alarmdigest.connect.deliver.addresses import UrlTemplate
from alarmdigest.connect.deliver.deliveries import Delivery
from alarmdigest.connect.deliver.digests import Assembler, Digest
from alarmdigest.connect.deliver.lanes import Item, Lanes
from alarmdigest.connect.deliver.message import Message
from alarmdigest.connect.deliver.rates import Rate
from alarmdigest.connect.deliver.routes import SendingRules, Target, Way
from alarmdigest.settings import Duration

ZONE = ZoneInfo("UTC")
QUICK = SendingRules(
    per_endpoint=2,
    attempts=3,
    first_pause=Duration(20_000_000),
    longest_pause=Duration(40_000_000),
)


def item(address: str, name: str = "", rate: Rate | None = None) -> Item:
    target = Target("web", UrlTemplate("json://host"), rate=rate)
    message = Message("ada", 0, (name,), (), (), (), True)
    return Item(Delivery("ada", []), message, Way(target, ZONE, "", address))


def taken(lanes: Lanes, timeout_s: float = 0.01) -> Item:
    found = lanes.take(timeout_s)
    assert found is not None
    return found


def test_a_lane_has_one_under_way_and_goes_on_once_that_is_recorded() -> None:
    lanes = Lanes(QUICK, lambda: True)
    first, second = item("json://a/1", "first"), item("json://a/1", "second")
    lanes.put(first)
    assert taken(lanes) is first
    lanes.put(second)
    assert lanes.take(0.01) is None
    lanes.sent(first)
    assert lanes.take(0.01) is None
    lanes.settled(first)
    assert taken(lanes) is second
    lanes.sent(second)
    lanes.settled(second)
    assert lanes.figures() == (0, 0, 0.0)
    assert not lanes._lanes
    assert not lanes._places


def test_an_endpoint_has_so_many_under_way_and_one_while_it_fails() -> None:
    lanes = Lanes(QUICK, lambda: True)
    items = [item(f"json://a/{number}") for number in range(5)]
    for one in items:
        lanes.put(one)
    other = item("json://b/1")
    lanes.put(other)
    under_way = [taken(lanes), taken(lanes), taken(lanes)]
    assert under_way == [items[0], items[1], other]
    assert lanes.take(0.01) is None
    lanes.failed(items[0], "no")
    lanes.failed(items[1], "no")
    assert taken(lanes) is items[2]
    assert lanes.take(0.005) is None
    lanes.sent(items[2])
    assert {taken(lanes), taken(lanes)} <= {*items[3:], *items[:2]}


def test_what_fails_pauses_and_is_given_up_after_so_many_attempts() -> None:
    lanes = Lanes(QUICK, lambda: True)
    first, second = item("json://a/1"), item("json://a/1")
    lanes.put(first)
    lanes.put(second)
    for _ in range(2):
        assert taken(lanes, 1.0) is first
        assert lanes.failed(first, "no") == []
        assert lanes.take(0.001) is None
    assert taken(lanes, 1.0) is first
    assert lanes.failed(first, "no") == [first]
    assert first.attempts == 3
    assert taken(lanes, 1.0) is second


def test_what_has_grown_old_behind_it_is_given_up_with_it() -> None:
    lanes = Lanes(SendingRules(give_up_after=Duration(10**9)), lambda: True)
    first, old, young = (item("json://a/1") for _ in range(3))
    old.waits_since = first.waits_since = time.monotonic() - 2
    for one in (first, old, young):
        lanes.put(one)
    assert lanes.failed(taken(lanes), "no") == [first, old]
    assert old.reason == "no"
    assert lanes.figures().waiting == 1


def test_a_rate_is_that_of_all_lanes_of_a_target() -> None:
    lanes = Lanes(QUICK, lambda: True)
    for number in range(3):
        lanes.put(item(f"json://{number}/", rate=Rate(2, 0.2)))
    began = time.monotonic()
    for _ in range(3):
        taken(lanes, 1.0)
    assert time.monotonic() - began >= 0.19


def test_only_lanes_that_keep_failing_make_room_the_oldest_first() -> None:
    lanes = Lanes(SendingRules(first_pause=Duration(1), attempts=100), lambda: True)
    bad = [item("json://a/1", str(number)) for number in range(3)]
    for one in (*bad, item("json://b/1", "good")):
        lanes.put(one)
    assert lanes.evict(10, crowded=100) == []
    for _ in range(5):
        while taken(lanes, 1.0) is not bad[0]:
            pass
        lanes.failed(bad[0], "no")
    assert lanes.evict(2, crowded=100) == bad[:2]
    assert lanes.figures().waiting == 2


def test_nothing_goes_while_another_process_acts_and_what_is_cleared_ends_quietly() -> None:
    acting = [True]
    lanes = Lanes(QUICK, lambda: acting[0])
    first = item("json://a/1")
    lanes.put(first)
    assert taken(lanes) is first
    acting[0] = False
    lanes.put(item("json://b/1"))
    assert lanes.take(0.01) is None
    lanes.clear()
    assert lanes.failed(first, "no") == []
    acting[0] = True
    assert lanes.take(0.01) is None


def part(user: str, request: str, size: int) -> Digest:
    return Digest(1, 0, b"", "id", request, user, (), b"x" * size, False)


def test_only_a_large_part_waits_and_only_for_its_own_request() -> None:
    assembler = Assembler(1.0)
    small, large = part("ada", "7", 100), part("ada", "8", 10_000)
    assert assembler.add(small, 0.0) == [[small]]
    assert assembler.add(large, 0.0) == []
    other = part("bob", "8", 100)
    assert assembler.add(other, 0.1) == [[other]]
    last = part("ada", "8", 100)
    assert assembler.add(last, 0.2) == [[large, last]]
    assert assembler.add(large, 0.3) == []
    following = part("ada", "9", 100)
    assert assembler.add(following, 0.4) == [[large], [following]]
    assert assembler.add(large, 0.5) == []
    assert assembler.next_at == 1.5
    assert assembler.due(1.4) == []
    assert assembler.due(1.5) == [[large]]
    # Who publishes without the header gets each by itself.
    alone = part("ada", "", 10_000)
    assert assembler.add(alone, 2.0) == [[alone]]


def test_a_crowded_lane_makes_room_too_and_first_what_frees_a_place() -> None:
    lanes = Lanes(SendingRules(), lambda: True)
    slow = [item("json://a/1", str(number)) for number in range(10)]
    for one in (*slow, item("json://b/1", "good")):
        one.delivery.left = 2 if one in slow[:3] else 1
        lanes.put(one)
    assert lanes.evict(4, crowded=4) == [*slow[3:6], slow[0]]
    assert lanes.evict(10, crowded=10) == []


def test_what_fails_after_new_routes_goes_where_these_lead_before_what_waits_there() -> None:
    lanes = Lanes(SendingRules(), lambda: True)
    first, second = item("json://old/1", "first"), item("json://old/1", "second")
    for one in (first, second):
        lanes.put(one)
    assert taken(lanes, 1.0) is first
    new = item("json://new/1").way
    lanes.reroute(lambda _item: new)
    assert lanes.failed(first, "no") == []
    assert (first.way, first.attempts) == (new, 0)
    assert taken(lanes, 1.0) is first
    lanes.sent(first)
    lanes.settled(first)
    assert taken(lanes, 1.0) is second
