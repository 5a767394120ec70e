"""Two processes with one name: a beat that is left of an earlier process ends nobody."""

from __future__ import annotations

import pytest

from alarmdigest.replication.membership import (
    BEAT_PAUSE_S,
    NAME_KEPT_FOR_ROUNDS,
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

    def hear_first(self, number: int, paces: int = 1000) -> None:
        """Another one, which has been in the group for longer unless told otherwise."""
        about = {"host": "h1", "pid": 7}
        self.membership.hear(Beat("a", "first", number, paces=paces, about=about), self.now)


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
    with pytest.raises(NameTaken, match=r"called a \(on h1, pid 7\)"):
        replica.hear_first(22)


def test_the_older_one_stays_and_the_younger_one_ends() -> None:
    older, younger = Replica(), Replica()
    for _ in range(10):
        older.make_a_round()
    ended = False
    for number in range(1, 10):
        older.make_a_round()
        younger.make_a_round()
        older.hear_first(number, younger.membership.paces)
        try:
            younger.hear_first(number, older.membership.paces)
        except NameTaken:
            ended = True
            break
    assert ended


def test_a_younger_one_that_does_not_give_way_is_given_way_to() -> None:
    replica = Replica()
    for _ in range(50):
        replica.make_a_round()
    for number in range(1, NAME_KEPT_FOR_ROUNDS + 1):
        replica.hear_first(number, 1)
        replica.make_a_round()
    with pytest.raises(NameTaken):
        replica.hear_first(NAME_KEPT_FOR_ROUNDS + 1, 1)
