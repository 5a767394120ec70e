"""The ChangedAt of an alarm that fires, is resolved, and fires again: never behind itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alarmdigest.connect.bridge.mapping import Alarm
from alarmdigest.connect.bridge.memory import entry_of, message_of
from alarmdigest.connect.bridge.times import Entry, Times
from alarmdigest.connect.buckets import BucketConfig

S = 10**9
RANK = {"CLEARED": 0, "WARNING": 1, "CRITICAL": 2}
T0 = 1_795_860_000 * S


def alarm(status: str, time_ns: int, key: str = "u.a") -> Alarm:
    return Alarm("u", "a", status, time_ns, key, None, keeps_start=True)


def new_times() -> Times:
    return Times(ahead_ns=60 * S, remember_ns=8 * 86_400 * S)


def test_an_alert_that_fires_again_with_its_old_time_is_newer_than_its_cleared() -> None:
    times = new_times()
    assert times.decide(alarm("WARNING", T0), T0 + S) == (T0, None)
    cleared, entry = times.decide(alarm("CLEARED", T0 + 5 * S), T0 + 6 * S)
    assert cleared == T0 + 5 * S
    assert entry == Entry("c", "u.a", cleared, cleared)
    again, entry = times.decide(alarm("WARNING", T0), T0 + 9 * S)
    assert again == T0 + 9 * S
    assert entry == Entry("f", "u.a", again, T0)
    # Alertmanager repeats what fires: that is not news, and the stream drops it by its id.
    assert times.decide(alarm("WARNING", T0), T0 + 99 * S) == (again, None)
    assert times.counts["fired_again"] == 1


def test_a_cleared_that_is_repeated_does_not_clear_what_has_fired_since() -> None:
    times = new_times()
    times.decide(alarm("CLEARED", T0), T0 + S)
    again, _ = times.decide(alarm("WARNING", T0 - 5 * S), T0 + 2 * S)
    repeated, entry = times.decide(alarm("CLEARED", T0), T0 + 3 * S)
    assert (repeated, entry) == (T0, None)
    assert again > repeated


def test_by_a_clock_behind_ours_it_is_resolved_all_the_same() -> None:
    times = new_times()
    times.decide(alarm("CLEARED", T0), T0 + 100 * S)
    again, _ = times.decide(alarm("WARNING", T0), T0 + 101 * S)
    cleared, _ = times.decide(alarm("CLEARED", T0 + 3 * S), T0 + 104 * S)
    assert cleared > again
    assert times.counts["resolved_again"] == 1
    assert times.decide(alarm("CLEARED", T0 + 3 * S), T0 + 200 * S) == (cleared, None)


def test_times_that_cannot_be_used_are_those_of_receipt() -> None:
    times = new_times()
    assert times.decide(alarm("WARNING", 0), T0)[0] == T0
    assert times.decide(alarm("CLEARED", 0), T0 + 1)[0] == T0 + 1
    assert times.counts["missing"] == 2


@pytest.mark.parametrize("keeps_start", [True, False])
def test_a_sender_whose_clock_is_ahead_keeps_its_order(keeps_start: bool) -> None:
    """Two minutes, of which one is permitted: first it fires, then that is repeated, then over."""
    times = new_times()
    told = [("WARNING", T0 + 120 * S, T0), ("WARNING", T0 + 120 * S, T0 + 70 * S)]
    told += [("CLEARED", T0 + 210 * S, T0 + 90 * S)]
    events = [
        (times.decide(alarm(status, at)._replace(keeps_start=keeps_start), received)[0], status)
        for status, at, received in told
    ]
    assert max(events)[1] == "CLEARED"
    assert events[0][0] == T0 + 60 * S
    assert times.counts["future"] == 2


@pytest.mark.parametrize("ends_at", [0, T0 + 20 * S, T0 + 10 * S])
def test_a_cleared_is_never_before_its_own_beginning(ends_at: int) -> None:
    times = new_times()
    began, _ = times.decide(alarm("WARNING", T0 + 20 * S), T0)
    over = alarm("CLEARED", ends_at)._replace(began_ns=T0 + 20 * S)
    assert times.decide(over, T0 + 10 * S)[0] > began


def test_an_old_cleared_that_comes_late_changes_nothing() -> None:
    times = new_times()
    times.decide(alarm("CLEARED", T0 + 9 * S), T0 + 10 * S)
    assert times.decide(alarm("CLEARED", T0), T0 + 11 * S) == (T0, None)
    assert times.decide(alarm("WARNING", T0 + 8 * S), T0 + 12 * S)[0] == T0 + 12 * S


def test_where_each_change_has_its_own_time_a_repeat_is_no_new_firing() -> None:
    """As of Netdata: what was sent together is repeated together, in its order."""
    times = new_times()
    changes = [
        ("WARNING", T0),
        ("CLEARED", T0 + S),
        ("WARNING", T0 + 2 * S),
        ("CLEARED", T0 + 3 * S),
    ]
    for _ in range(2):
        for status, told_ns in changes:
            one = alarm(status, told_ns)._replace(keeps_start=False)
            assert times.decide(one, T0 + 60 * S) == (told_ns, None)
    assert times.counts["fired_again"] == 0


def test_alarms_are_independent() -> None:
    times = new_times()
    times.decide(alarm("CLEARED", T0, "u.a"), T0)
    assert times.decide(alarm("WARNING", T0 - S, "u.b"), T0) == (T0 - S, None)


def test_what_is_older_than_its_bucket_is_forgotten() -> None:
    times = new_times()
    times.decide(alarm("CLEARED", T0), T0)
    times.decide(alarm("WARNING", T0 - S), T0 + S)
    times.sweep(T0 + 9 * 86_400 * S)
    assert len(times) == 0
    assert times.decide(alarm("WARNING", T0 - S), T0 + 9 * 86_400 * S)[0] == T0 - S


def test_an_entry_is_read_as_it_was_written() -> None:
    bucket = BucketConfig("B", 0, -1)
    entry = Entry("f", "ab.cd", T0, T0 - S)
    message = message_of(bucket, entry)
    assert (message.stream, message.subject) == ("KV_B", "$KV.B.f.ab.cd")
    assert entry_of(message.body) == entry


def test_what_strangers_write_into_the_bucket_is_no_entry() -> None:
    for body in (
        b"",
        b"c",
        b"c k 1",
        b"c k 1 -2",
        b"x k 1 2",
        b"c k 1 2 3",
        b"\xff\xfe",
        b"c k 1 " + b"9" * 40,
    ):
        assert entry_of(body) is None


@dataclass
class World:
    """One alert of a sender, several bridges that share their bucket, and the service's rule."""

    bridges: list[Times]
    skews_ns: list[int]
    firing: bool = False
    starts_at: int = 0
    ends_at: int = 0
    now: int = T0
    events: list[tuple[int, int, str]] = field(default_factory=list)

    def latest(self) -> str:
        return max(self.events)[2] if self.events else "CLEARED"

    def send(self, which: int) -> None:
        """What the sender tells now, to one of the bridges; the others read what that noted."""
        status = "WARNING" if self.firing else "CLEARED"
        told = self.starts_at if self.firing else self.ends_at
        times = self.bridges[which]
        at_ns, entry = times.decide(alarm(status, told), self.now + self.skews_ns[which])
        if entry is not None:
            for other in self.bridges:
                if other is not times:
                    other.remember(entry)
        self.events.append((at_ns, RANK[status], status))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fire", "fire with its old time", "resolve", "repeat"]),
        st.integers(0, 1),
        st.integers(1, 30 * S),
    ),
    max_size=30,
)


@given(steps=STEPS, skews=st.tuples(*[st.integers(-20 * S, 20 * S)] * 2))
def test_after_each_message_the_latest_state_is_the_senders(
    steps: list[tuple[str, int, int]], skews: tuple[int, int]
) -> None:
    """Whichever bridge takes it, and with clocks apart from each other and the sender's."""
    world = World([new_times(), new_times()], list(skews))
    for what, which, pause in steps:
        world.now += pause
        if what.startswith("fire") and not world.firing:
            world.firing = True
            if what == "fire" or world.starts_at == 0:
                world.starts_at = world.now
        elif what == "resolve" and world.firing:
            world.firing, world.ends_at = False, world.now
        elif world.starts_at == 0:
            continue
        world.send(which)
        assert world.latest() == ("WARNING" if world.firing else "CLEARED")
