"""Whose digests are right, where a replica has made others than the leader: the majority's.

Each replica counts its digests and sums up their ids. A follower that comes to something else than
the leader's word tells of it in its beats: where, and to what. On a tie the leader is right.

No input and no output happens here, and no clock is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from alarmdigest.replication.membership import Beat


class Verdict(Enum):
    OPEN = "open"
    LEADER_IS_RIGHT = "leader"
    WE_ARE_RIGHT = "we"


def judge(
    at: int,
    others: Sequence[Beat],
    agrees: Callable[[Beat], bool | None],
    *,
    patience: bool,
) -> Verdict:
    """We have come to something else than the leader at the place ``at`` (an arrival in ns).

    ``others`` are the beats of the living replicas beside us and the leader. ``agrees`` says
    whether we have made the same as a replica that disagrees with the leader, too, None if we have
    not come so far. ``patience``: wait for those who have not compared themselves yet.
    """
    for_us = for_leader = 1
    undecided = 0
    for beat in others:
        if beat.differs_at:
            same = agrees(beat)
            for_us += same is True
            undecided += same is None
        elif beat.agreed >= at:
            for_leader += 1
        else:
            undecided += 1
    if not patience:
        undecided = 0
    if for_us > for_leader + undecided:
        return Verdict.WE_ARE_RIGHT
    if for_us + undecided <= for_leader:
        return Verdict.LEADER_IS_RIGHT
    return Verdict.OPEN


def outvoted(token: int, others: Sequence[Beat]) -> bool:
    """Whether we, who lead with this token, have made other digests than the majority: those who
    say so have found that they agree."""
    against = sum(beat.distrusts == token for beat in others)
    return against > len(others) - against + 1
