"""Which words of others count, and from when on."""

from __future__ import annotations

import time
from dataclasses import replace

from alarmdigest.replication.exchange import Exchange
from alarmdigest.replication.heard_words import HeardWords
from alarmdigest.replication.membership import Beat, Membership
from alarmdigest.replication.word import NOTHING_SAID, Word

WORD = Word(through=100, sequence=3, digests=2, ids=5, token=7)
BEAT = Beat("b", "b-1", 1, word=WORD)


class Replica:
    def __init__(self) -> None:
        self.exchange = Exchange()
        self.membership = Membership("a", "a-2", 100)
        self.words = HeardWords(self.exchange, self.membership)

    def hear(self, beat: Beat) -> Word:
        self.membership.hear(beat, 0.0)
        self.words.on_beat(beat)
        return self.exchange.heard

    def learn_of(self, token: int) -> Word:
        self.membership.note_last_election(token)
        self.words.on_last_election()
        return self.exchange.heard


def test_a_word_that_was_kept_counts_once_the_stream_has_told_who_leads() -> None:
    """At its start a replica hears each beat that is kept, once, and does not know yet."""
    replica = Replica()
    assert replica.hear(BEAT) == NOTHING_SAID
    assert replica.learn_of(7) == WORD


def test_so_does_one_that_an_earlier_process_of_ours_has_kept() -> None:
    replica = Replica()
    replica.hear(replace(BEAT, name="a", incarnation="a-1"))
    assert replica.learn_of(9) == WORD


def test_a_word_of_a_leader_that_never_was_does_not_count() -> None:
    replica = Replica()
    replica.hear(BEAT)
    assert replica.learn_of(6) == NOTHING_SAID
    assert replica.learn_of(7) == NOTHING_SAID  # it is told again by whoever knows it


def test_a_word_from_the_far_future_does_not_count() -> None:
    replica = Replica()
    replica.learn_of(7)
    assert replica.hear(replace(BEAT, word=replace(WORD, through=2**62))) == NOTHING_SAID
    soon = replace(WORD, through=time.time_ns() + 10**9)
    assert replica.hear(replace(BEAT, word=soon)) == soon


def test_a_word_of_a_leader_that_is_distrusted_does_not_count() -> None:
    replica = Replica()
    replica.learn_of(7)
    assert replica.hear(BEAT) == WORD
    replica.exchange.distrusts = 7
    assert replica.hear(BEAT) == NOTHING_SAID
