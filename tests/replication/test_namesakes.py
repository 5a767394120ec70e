"""Two processes with one name: a beat that is left of an earlier process ends nobody."""

from __future__ import annotations

import pytest

from alarmdigest.replication.membership import Beat, Membership, NameTaken


def member(number_of_rounds: int = 0) -> Membership:
    membership = Membership("a", "second", 100)
    for _ in range(number_of_rounds):
        make_a_round(membership)
    return membership


def make_a_round(membership: Membership) -> None:
    number = membership.next_number(0.0)
    membership.hear(Beat("a", "second", number), 0.0)


def test_late_beats_of_an_earlier_process_end_nobody() -> None:
    """A stalled connection lets go of several, some at once, some a moment later."""
    membership = member()
    for number in (6, 8, 9):
        membership.hear(Beat("a", "first", number), 0.0)
    make_a_round(membership)
    for number in (10, 12):
        membership.hear(Beat("a", "first", number), 0.0)
    for _ in range(3):
        make_a_round(membership)
        membership.hear(Beat("a", "first", 12), 0.0)


def test_another_process_that_beats_on_is_found_within_three_rounds() -> None:
    membership = member(number_of_rounds=5)
    membership.hear(Beat("a", "first", 20), 0.0)
    make_a_round(membership)
    membership.hear(Beat("a", "first", 21), 0.0)
    make_a_round(membership)
    with pytest.raises(NameTaken):
        membership.hear(Beat("a", "first", 22), 0.0)
