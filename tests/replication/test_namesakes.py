"""Two processes with one name: a beat that is left of an earlier process ends nobody."""

from __future__ import annotations

import pytest

from alarmdigest.replication.membership import (
    BEAT_PAUSE_S,
    WORD_PAUSE_S,
    Beat,
    Membership,
    NameTaken,
)


class Replica:
    """One called ``a`` on a clock of its own."""

    def __init__(self) -> None:
        self.membership = Membership("a", "second", 100)
        self.now = 0.0

    def make_a_round(self, pause_s: float = BEAT_PAUSE_S) -> None:
        self.now += pause_s
        number = self.membership.next_number(self.now)
        self.membership.hear(Beat("a", "second", number), self.now)

    def hear_first(self, number: int) -> None:
        self.membership.hear(Beat("a", "first", number), self.now)


@pytest.mark.parametrize("pause_s", [BEAT_PAUSE_S, WORD_PAUSE_S], ids=["follower", "leader"])
def test_late_beats_of_an_earlier_process_end_nobody(pause_s: float) -> None:
    """A stalled connection lets go of several, some at once, some a moment later."""
    replica = Replica()
    for number in (6, 8, 9):
        replica.hear_first(number)
    replica.make_a_round(pause_s)
    for number in (10, 12):
        replica.hear_first(number)
    for _ in range(3):
        replica.make_a_round(pause_s)
        replica.hear_first(12)


def test_what_comes_late_within_some_rounds_of_a_leader_ends_nobody() -> None:
    """A leader's beats come every 50 ms while digests flow."""
    replica = Replica()
    for number in range(1, 8):
        replica.hear_first(number)
        replica.make_a_round(WORD_PAUSE_S)


def test_another_process_that_beats_on_is_found_within_three_rounds() -> None:
    replica = Replica()
    for _ in range(5):
        replica.make_a_round()
    replica.hear_first(20)
    replica.make_a_round()
    replica.hear_first(21)
    replica.make_a_round()
    with pytest.raises(NameTaken):
        replica.hear_first(22)
