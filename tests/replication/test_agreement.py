"""Who is right where replicas have made other digests: the majority, and on a tie the leader."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alarmdigest.replication.agreement import Verdict, judge, outvoted
from alarmdigest.replication.membership import Beat

AT = 100
RIGHT = replace(Beat("r", "r-1", 1), agreed=AT)
SLOW = replace(Beat("s", "s-1", 1), agreed=AT - 1)
LIKE_US = replace(Beat("l", "l-1", 1), differs_at=AT + 5, own="1:a")
NOT_LIKE_US = replace(Beat("n", "n-1", 1), differs_at=AT - 5, own="1:b")
AHEAD = replace(Beat("a", "a-1", 1), differs_at=AT + 500, own="1:a")


def agrees(beat: Beat) -> bool | None:
    return None if beat.differs_at > AT + 100 else beat.own == "1:a"


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ([], Verdict.LEADER_IS_RIGHT),
        ([RIGHT], Verdict.LEADER_IS_RIGHT),
        ([LIKE_US], Verdict.WE_ARE_RIGHT),
        ([NOT_LIKE_US], Verdict.LEADER_IS_RIGHT),
        ([SLOW], Verdict.OPEN),
        ([AHEAD], Verdict.OPEN),
        ([LIKE_US, RIGHT], Verdict.LEADER_IS_RIGHT),
        ([LIKE_US, SLOW], Verdict.OPEN),
        ([LIKE_US, LIKE_US, SLOW], Verdict.WE_ARE_RIGHT),
        ([LIKE_US, LIKE_US, RIGHT], Verdict.WE_ARE_RIGHT),
        ([RIGHT, RIGHT, SLOW], Verdict.LEADER_IS_RIGHT),
    ],
)
def test_the_majority_is_right(others: list[Beat], verdict: Verdict) -> None:
    assert judge(AT, others, agrees, patience=True) is verdict


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ([SLOW], Verdict.LEADER_IS_RIGHT),
        ([AHEAD], Verdict.LEADER_IS_RIGHT),
        ([LIKE_US, SLOW], Verdict.WE_ARE_RIGHT),
    ],
)
def test_who_does_not_come_in_time_does_not_count(others: list[Beat], verdict: Verdict) -> None:
    assert judge(AT, others, agrees, patience=False) is verdict


def test_a_leader_gives_way_to_the_majority_only() -> None:
    against = replace(Beat("b", "b-1", 1), distrusts=7)
    assert outvoted(7, [against, against])
    assert not outvoted(7, [against])
    assert not outvoted(7, [against, against, RIGHT])
    assert not outvoted(8, [against, against])
