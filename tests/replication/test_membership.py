"""What a replica believes of beats: they come through a stream that others may write to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from alarmdigest.replication.membership import (
    MOST_MEMBERS,
    STUCK_AFTER_PACES,
    SUSPECT_AFTER_ROUNDS,
    Beat,
    Membership,
)
from alarmdigest.replication.word import Word


def rounds(membership: Membership, count: int, start: float = 0.0) -> None:
    for index in range(count):
        now = start + index * 0.5
        number = membership.next_number(now)
        membership.hear(Beat(membership.name, membership.incarnation, number), now)


def test_a_beat_proves_no_leader_and_the_stream_does() -> None:
    membership = Membership("a", "a-1", 100)
    membership.hear(Beat("b", "b-1", 1, token=10**18), 0.0)
    assert (membership.token, membership.leader) == (0, None)
    assert membership.claimed_token == 10**18  # it is asked
    membership.note_last_election(7)
    assert (membership.token, membership.claimed_token) == (7, 0)
    membership.hear(Beat("c", "c-1", 1, token=7), 0.0)
    assert membership.leader is not None
    assert membership.leader.beat.name == "c"


def test_a_leader_of_a_stream_that_was_made_anew_is_recognised() -> None:
    """Its sequences begin with 1 again, and beats of before stand in the group's stream still."""
    membership = Membership("a", "a-1", 100)
    membership.note_last_election(5000)
    membership.note_last_election(3)
    membership.hear(Beat("b", "b-1", 1, token=3), 0.0)
    assert membership.leader is not None
    rounds(membership, SUSPECT_AFTER_ROUNDS - 1)
    membership.hear(Beat("c", "c-1", 1, token=5000), 2.0)
    membership.hear(Beat("b", "b-1", 2, token=3), 2.0)
    rounds(membership, SUSPECT_AFTER_ROUNDS - 1, 2.0)
    assert not membership.leader_is_suspected
    assert membership.leader.beat.name == "b"
    rounds(membership, 1, 4.0)
    assert membership.leader_is_suspected


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        {"name": "b"},
        {"name": ["b"], "incarnation": "x", "number": 1, "word": {}},
        {"name": "b", "incarnation": "x", "number": -1, "word": {}},
        {"name": "b", "incarnation": "x", "number": True, "word": {}},
        {"name": "b", "incarnation": "x", "number": 1, "word": []},
        {"name": "b", "incarnation": "x", "number": 1, "word": {"ids": 5}},
        {"name": "b", "incarnation": "x", "number": 1, "word": {"ids": "x"}},
        {"name": "b", "incarnation": "x", "number": 1, "word": {"through": -1}},
        {"name": "b", "incarnation": "x", "number": 1, "word": {"after_id": None}},
        {"name": "b", "incarnation": "x", "number": 1, "word": {"through": 2**63}},
        {"name": "b", "incarnation": "x", "number": 1, "word": {"ids": "-1"}},
        {"name": "b", "incarnation": "x", "number": 2**63, "word": {}},
        {"name": "b" * 201, "incarnation": "x", "number": 1, "word": {}},
        {"name": "b", "incarnation": "x", "number": 1, "word": {}, "about": []},
    ],
)
def test_what_is_no_beat_is_a_value_error(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"beat|word|text|int|id"):
        Beat.from_json(fields)


def test_however_many_names_are_made_up_few_are_kept() -> None:
    membership = Membership("a", "a-1", 100)
    for number in range(3 * MOST_MEMBERS):
        membership.hear(Beat(f"x-{number}", "x", 1), 0.0)
    assert len(membership.members) == MOST_MEMBERS


def test_a_beat_of_a_later_version_is_understood() -> None:
    beat = Beat("b", "b-1", 5, token=3, word=Word(through=9, digests=2, ids=1 << 127))
    told = orjson.loads(orjson.dumps(beat.to_json()))
    assert Beat.from_json({**told, "new": 1, "word": {**told["word"], "newer": [1]}}) == beat


def follower_of(leader: Beat) -> Membership:
    membership = Membership("a", "a-1", 100)
    membership.note_last_election(leader.token)
    membership.hear(leader, 0.0)
    return membership


def live(membership: Membership, leader: Beat, paces: int, *, waits: bool = True) -> None:
    """Half a second each: our beat comes back, and the leader is heard."""
    for index in range(paces):
        rounds(membership, 1, (membership.rounds + 1) * 0.5)
        membership.hear(replace(leader, number=leader.number + index), 0.0)
        membership.watch_leader(waits=waits)


LEADER = Beat("b", "b-1", 1, token=7, word=Word(through=5), progress=3)
OWN = Beat("a", "a-1", 1)


def test_a_leader_that_gets_nothing_done_is_asked_to_resign_and_then_replaced() -> None:
    membership = follower_of(LEADER)
    live(membership, LEADER, STUCK_AFTER_PACES)
    assert membership.should_resign == 0
    live(membership, LEADER, 2)
    assert membership.should_resign == 7
    assert not membership.leader_is_suspected
    assert not membership.should_stand(OWN, 100.0)
    live(membership, LEADER, STUCK_AFTER_PACES)
    assert membership.should_stand(OWN, 100.0)


@pytest.mark.parametrize(
    "later",
    [
        replace(LEADER, progress=4),
        replace(LEADER, word=Word(through=6)),
        replace(LEADER, incarnation="b-2"),
    ],
    ids=["stored", "word", "restarted"],
)
def test_one_that_gets_something_done_is_left_alone(later: Beat) -> None:
    membership = follower_of(LEADER)
    live(membership, LEADER, STUCK_AFTER_PACES)
    live(membership, later, STUCK_AFTER_PACES)
    assert membership.should_resign == 0


@pytest.mark.parametrize("reason", ["nothing waits", "full"])
def test_one_that_has_nothing_to_do_or_cannot_is_left_alone(reason: str) -> None:
    leader = replace(LEADER, full=reason == "full")
    membership = follower_of(leader)
    live(membership, leader, 3 * STUCK_AFTER_PACES, waits=reason != "nothing waits")
    assert membership.should_resign == 0
    assert not membership.should_stand(OWN, 100.0)


def test_a_leader_hears_that_it_should_resign() -> None:
    membership = Membership("b", "b-1", 100)
    membership.hear(replace(OWN, resign=7), 0.0)
    assert membership.asked_to_resign(7)
    assert not membership.asked_to_resign(8)
    assert not membership.asked_to_resign(0)


def test_who_has_missed_input_stands_last() -> None:
    membership = follower_of(LEADER)
    membership.hear(Beat("c", "c-1", 1, priority=1), 0.0)
    assert membership.rank(OWN) == 0
    assert membership.rank(replace(OWN, missed=True)) == 1
