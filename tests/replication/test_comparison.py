"""A replica that has made other digests than the leader: whom it asks, and what it concludes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from alarmdigest._ext.digest_sums import DigestSums
from alarmdigest.pipeline.inflight.comparison import Comparison, sums_text
from alarmdigest.replication.exchange import Exchange
from alarmdigest.replication.leadership import Leadership
from alarmdigest.replication.membership import Beat
from alarmdigest.replication.word import NOTHING_SAID, Word

# We have made no digest up to 100, and the leader says that there is one.
WORD = Word(through=100, sequence=3, digests=1, ids=5, token=7)
LIKE_US = Beat("c", "c-1", 1, differs_at=100, own=sums_text(0, 0))
LIKE_LEADER = Beat("d", "d-1", 1, agreed=100)
SLOW = Beat("s", "s-1", 1)


class Replica:
    def __init__(self) -> None:
        self.exchange = Exchange()
        self.leadership = Leadership("b-1", NOTHING_SAID)
        self.told: list[str] = []
        self.comparison = Comparison(self.leadership, DigestSums(), self.exchange, self.told.append)
        self.comparison.made(100)

    def hear(self, *others: Beat, word: Word = WORD) -> None:
        """The word, and what the others tell."""
        self.exchange.heard = word
        self.exchange.others = others
        self.comparison.hear()
        self.comparison.hear()

    @property
    def diverged(self) -> bool:
        assert bool(self.told) == bool(self.exchange.diverged)
        return bool(self.told)


def test_the_majority_decides() -> None:
    replica = Replica()
    replica.hear(LIKE_US)
    assert not replica.diverged
    assert replica.exchange.distrusts == 7
    assert replica.leadership.word == NOTHING_SAID
    # The others still hear of it.
    assert (replica.exchange.differs_at, replica.exchange.own) == (100, sums_text(0, 0))
    replica = Replica()
    replica.hear(LIKE_LEADER)
    assert replica.diverged


@pytest.mark.parametrize("others", [(SLOW,), (replace(LIKE_US, token=9),)])
def test_it_waits_for_who_has_not_come_so_far_and_for_who_may_lead_already(
    others: tuple[Beat, ...],
) -> None:
    """One that agrees with us may have been elected, which the stream is about to tell."""
    replica = Replica()
    replica.hear(*others)
    assert not replica.diverged
    assert replica.exchange.in_doubt
    assert replica.exchange.distrusts == 0


def test_once_another_one_leads_it_is_that_one_that_counts() -> None:
    replica = Replica()
    replica.hear(SLOW)
    replica.exchange.last_of_others = 9
    replica.hear(SLOW)
    assert not replica.diverged
    assert replica.exchange.distrusts == 7
    replica.hear(word=replace(WORD, through=100, digests=0, ids=0, token=9))
    assert replica.exchange.agreed == 100


def test_the_leader_is_no_judge_of_itself() -> None:
    replica = Replica()
    replica.hear(replace(LIKE_LEADER, token=7), LIKE_US)
    assert not replica.diverged
    assert replica.exchange.distrusts == 7


def test_a_list_that_is_too_long_does_not_wait() -> None:
    replica = Replica()
    replica.hear(word=replace(WORD, through=500, digests=9))
    assert replica.comparison.needs_more
    assert replica.comparison.excuse()
    assert not replica.comparison.excuse()
    assert replica.comparison.stored_through == 500
    assert not replica.comparison.needs_more
    assert replica.exchange.agreed == 0
