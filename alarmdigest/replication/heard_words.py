"""Which of the words that come in beats count: a beat proves nothing by itself."""

from __future__ import annotations

import time

from alarmdigest._ext.timestamps import DAY_NS
from alarmdigest.replication.agreement import outvoted
from alarmdigest.replication.exchange import Exchange
from alarmdigest.replication.membership import MOST_MEMBERS, Beat, Membership
from alarmdigest.replication.word import NOTHING_SAID, Word


class HeardWords:
    """Puts into the exchange what others have told. Belongs to the group's thread."""

    def __init__(self, exchange: Exchange, membership: Membership) -> None:
        self._exchange = exchange
        self._membership = membership
        # By name: the newest words of leaders that the stream has not told us of yet.
        self._claimed: dict[str, Word] = {}

    def on_beat(self, beat: Beat) -> None:
        """A beat that was heard; our own one changes what is known of the others, too."""
        exchange, membership = self._exchange, self._membership
        exchange.others = membership.others
        exchange.outvoted = exchange.token > 0 and outvoted(exchange.token, exchange.others)
        if exchange.distrusts and exchange.distrusts == exchange.heard.token:
            exchange.heard = NOTHING_SAID
        if beat.incarnation == membership.incarnation:
            return
        if beat.word.token > membership.token and len(self._claimed) < MOST_MEMBERS:
            self._claimed[beat.name] = beat.word
        self._take(beat.word)

    def on_last_election(self) -> None:
        """The stream has told who leads: words that came before that, of whoever has led until now,
        count as well. A replica that begins hears each beat that is kept once."""
        for word in self._claimed.values():
            self._take(word)
        self._claimed.clear()

    def _take(self, word: Word) -> None:
        """A word counts that was spoken by a leader of whom the stream knows."""
        exchange = self._exchange
        spoken = 0 < word.token <= self._membership.token and word.token != exchange.distrusts
        possible = word.through <= time.time_ns() + DAY_NS
        if spoken and possible and word.through > exchange.heard.through:
            exchange.heard = word
            exchange.heed.wake()
