"""Whether this replica makes the same digests as the leader: compared word for word.

Nothing is let go that a leader's word confirms before that word agrees with us, unless too much
waits for it (``excuse``), or we are elected.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from alarmdigest._ext.digest_sums import DigestSums
from alarmdigest.replication.agreement import Verdict, judge
from alarmdigest.replication.exchange import Exchange
from alarmdigest.replication.leadership import Leadership
from alarmdigest.replication.membership import Beat
from alarmdigest.replication.word import Word

log = logging.getLogger(__name__)

#: How long those that have not compared themselves with the leader yet are waited for.
VOTES_WITHIN_S = 10.0


def sums_text(digests: int, ids: int) -> str:
    """How many digests were made, and the sum of their ids, as beats tell it."""
    return f"{digests}:{ids:032x}"


class Comparison:
    """``agreed`` is the last word that agrees with what we have made, or ours, as we lead, and
    ``applied`` its ``through``. Everything up to ``made_through`` is made.

    We compare ourselves at one word until everything that belongs to it is made; newer ones wait,
    else there would always be a newer one.
    """

    def __init__(
        self,
        leadership: Leadership,
        sums: DigestSums,
        exchange: Exchange,
        on_diverged: Callable[[str], None],
    ) -> None:
        """The word of ``leadership`` and ``sums`` are those of the checkpoint. ``on_diverged`` is
        told why this replica disagrees with the majority."""
        self.made_through = sums.through
        self.applied = leadership.word.through
        self._leadership = leadership
        self._sums = sums
        self._exchange = exchange
        self._on_diverged = on_diverged
        self._next = self.agreed = leadership.word
        self._excused_through = 0
        self._differs: Word | None = None  # the word at which we have come to something else
        self._differs_since = 0.0
        exchange.word = leadership.word

    @property
    def stored_through(self) -> int:
        """What comes from input up to here need not be kept: its digests are stored."""
        return max(self.applied, self._excused_through)

    def excuse(self) -> bool:
        """Let what the leader's word confirms go without a comparison; whether that is more than
        before. Not while we disagree with the leader."""
        through = self._leadership.word.through
        if not self.needs_more or through <= self._excused_through:
            return False
        self._excused_through = through
        return True

    @property
    def needs_more(self) -> bool:
        """Whether the next comparison waits for what is still to be made."""
        behind = self.stored_through < self._leadership.word.through
        return (
            not self._leadership.leads
            and behind
            and self._differs is None
            and not self._exchange.diverged
        )

    def made(self, arrival_ns: int) -> tuple[int, int]:
        """Everything up to this arrival is made: how many digests, and the sum of their ids."""
        self.made_through = max(arrival_ns, self.made_through)
        found = self._sums.at(max(self.made_through, self._sums.through))
        if self.made_through <= self.stored_through:
            self._sums.advance(self.made_through)
        return found

    def spoke(self, word: Word) -> None:
        """We lead, and this is our own word."""
        self._agree(word)
        self._exchange.word = word
        self._exchange.news.wake()

    def hear(self) -> Word | None:
        """Take in what others have said; a word that agrees with us, and that we had not compared
        ourselves with, if there is one."""
        exchange = self._exchange
        if self._differs is not None:
            self._compare_with_others(self._differs)
            return None
        heard = exchange.heard
        distrusted = exchange.distrusts > 0 and heard.token == exchange.distrusts
        if not distrusted and self._leadership.hear(heard):
            exchange.word = self._leadership.word
        return None if exchange.diverged else self._compare()

    def diverge(self, why: str) -> None:
        self._exchange.diverged = why
        self._exchange.news.wake()
        log.critical("diverged: %s", why)
        self._on_diverged(why)

    def _compare(self) -> Word | None:
        if self._next.through <= self.stored_through:
            self._next = self._leadership.word
        word = self._next
        if word.through <= self.stored_through:
            return None
        if self.made_through < word.through:
            # Nothing before it will be compared any more, but by others.
            self._sums.advance(self.made_through)
            return None
        if word.through < self._sums.through:
            # Nobody knows any more what we had made up to there.
            self._excused_through = max(self._excused_through, word.through)
            self._next = self._leadership.word
            return word
        ours = self._sums.at(word.through)
        if ours == (word.digests, word.ids):
            self._agree(word)
            return word
        self._differs, self._differs_since = word, time.monotonic()
        self._exchange.in_doubt = True
        self._exchange.own = sums_text(*ours)
        self._exchange.differs_at = word.through
        self._exchange.news.wake()
        log.error(
            "up to input message %d this replica has made other digests than the leader: %d and %d "
            "in all; the others are asked",
            *(word.sequence, ours[0], word.digests),
        )
        return None

    def _agree(self, word: Word) -> None:
        self._sums.advance(word.through)
        self.agreed = word
        self.applied = self._exchange.agreed = word.through
        self._exchange.differs_at, self._exchange.own = 0, ""

    def _compare_with_others(self, word: Word) -> None:
        """Who is right where we and the leader have made other digests up to this word."""
        exchange = self._exchange
        if exchange.last_of_others > word.token or self._leadership.leads:
            # Another one leads, and is asked instead.
            self._distrust(word)
            return
        waits = time.monotonic() - self._differs_since < VOTES_WITHIN_S
        if waits and any(beat.token > word.token for beat in exchange.others):
            return  # perhaps another one leads already: the stream is about to tell
        # Who leads, or says so, is no judge of it.
        others = [beat for beat in exchange.others if not beat.leads]
        verdict = judge(word.through, others, self._agrees, patience=waits)
        if verdict is Verdict.LEADER_IS_RIGHT:
            self._differs, exchange.in_doubt = None, False
            self.diverge(
                f"up to input message {word.sequence} this replica has made other digests than the "
                f"leader: {exchange.own.partition(':')[0]} and {word.digests} in all"
            )
        elif verdict is Verdict.WE_ARE_RIGHT:
            self._distrust(word)
            log.critical(
                "the leader has made other digests than most replicas, this one among them, up to "
                "input message %d: it is asked to resign",
                word.sequence,
            )

    def _distrust(self, word: Word) -> None:
        """What was agreed on last counts: after it stand digests that the others have not made."""
        self._differs, self._exchange.in_doubt = None, False
        self._leadership.word = self._next = self._exchange.word = self.agreed
        self._excused_through = 0
        self._exchange.distrusts = word.token
        self._exchange.news.wake()

    def _agrees(self, beat: Beat) -> bool | None:
        """Whether we have made the same as another replica that disagrees with the leader."""
        if not self._sums.through <= beat.differs_at <= self.made_through:
            return None
        return sums_text(*self._sums.at(beat.differs_at)) == beat.own
