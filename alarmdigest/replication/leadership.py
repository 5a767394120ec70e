"""How a replica becomes the leader, notices that it is not any more, and learns what is stored.

Election and fence are one message. The digest stream captures one more subject; **who published the
last message there is the leader**, and that message's sequence is its *token*. Every digest carries
the token as ``Nats-Expected-Last-Subject-Sequence``, so from the moment when somebody else is
elected the server refuses what an old leader has sent, wherever that was on its way.

This module does no input and no output: ``Leadership`` asks questions and is told the answers, so
that a simulation can run the same code. The protocol is checked by the model in ``tests/models``.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from alarmdigest.replication.word import NOTHING_SAID, Word

# -- questions, and their answers ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishElection:
    """Publish a leader message with this ``nonce``; only if the last one there has the sequence
    ``expected``, unless that is None. Answer: Stored, Refused or Unknown."""

    nonce: str
    expected: int | None


@dataclass(frozen=True, slots=True)
class ReadLastElection:
    """Ask the stream's leader for the last leader message. Answer: LastElection or Unknown."""


@dataclass(frozen=True, slots=True)
class ReadOutput:
    """Read the digest stream behind ``after`` through the message ``token``, and take what stands
    there for stored. Answer: Done or Unknown."""

    after: int
    token: int


@dataclass(frozen=True, slots=True)
class Stored:
    sequence: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The stream holds another last leader message than was expected."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer, or one that says neither yes nor no: it may be stored, now or later."""


@dataclass(frozen=True, slots=True)
class LastElection:
    """``sequence`` 0: there is none."""

    sequence: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Done:
    pass


Question: TypeAlias = PublishElection | ReadLastElection | ReadOutput
Answer: TypeAlias = Stored | Refused | Unknown | LastElection | Done
Asking: TypeAlias = Generator[Question, Answer, bool]


class Leadership:
    """One replica's part. Belongs to the publisher's thread.

    ``leads`` once we were elected and have read what is stored, until we step down. ``token`` is
    the sequence of our leader message from the election on, else 0. ``word`` is the newest that is
    known: the leader's, or our own.
    """

    def __init__(self, incarnation: str, word: Word = NOTHING_SAID) -> None:
        """``incarnation`` is unique to this process: its nonces begin with it."""
        self.leads = False
        self.token = 0
        self.word = word
        self._incarnation = incarnation
        self._nonces = 0

    def is_mine(self, nonce: str) -> bool:
        """Whether this very process has published the leader message, whenever it was stored."""
        return nonce.startswith(f"{self._incarnation}.")

    # -- becoming the leader ---------------------------------------------------------------------

    def stand(self) -> Asking:
        """A follower publishes a leader message, whoever leads; True: it leads now.

        It is published plainly. Published by compare-and-set it would be starved by the batches of
        the leader that it is to depose.
        """
        while True:
            answer = yield PublishElection(self._next_nonce(), None)
            if isinstance(answer, Stored):
                return (yield from self._take_over(answer.sequence))
            if isinstance(answer, Refused):
                return False
            # An unanswered one may be stored behind the next: then it deposes us, its nonce is
            # ours, and ``confirm`` goes on with it.

    def confirm(self) -> Asking:
        """After a publish without an answer, a lost connection or a refused digest: False if
        another leads now.

        What we sent may still be on its way. Only behind another leader message of ours can none
        of it be stored any more. That message is published by compare-and-set: it must not depose
        a successor. Without one, a look into the stream would miss what is stored a moment later.
        """
        while True:
            answer = yield PublishElection(self._next_nonce(), self.token)
            if isinstance(answer, Stored):
                return (yield from self._take_over(answer.sequence))
            # Refused proves nothing by itself: an earlier one of ours may have been stored.
            last = yield ReadLastElection()
            if not isinstance(last, LastElection):
                continue
            if last.sequence > self.token and self.is_mine(last.nonce):
                return (yield from self._take_over(last.sequence))
            # An older one is told by a server that does not know yet that it is not the stream's
            # leader. Going back to an older token of ours, and from there to the newer again,
            # would skip the fence: what we sent with the newer one may still be on its way.
            if last.sequence != self.token:
                self.step_down()
                return False

    def renew(self) -> Asking:
        """Publish the token anew before its message is removed by the stream's limits. Nothing may
        be under way. False if another leads now."""
        answer = yield PublishElection(self._next_nonce(), self.token)
        if isinstance(answer, Stored):
            # Nothing was under way, so nothing but ours lies between the two.
            self.token = answer.sequence
            return True
        return (yield from self.confirm())

    def _take_over(self, token: int) -> Asking:
        """Elected: read what any leader before us, ourselves included, has stored."""
        # From now on only one of ours can be under way with a token that counts, and none is.
        self.token = token
        while True:
            answer = yield ReadOutput(self.word.after, self.token)
            if isinstance(answer, Done):
                self.leads = True
                return True
            # Perhaps our message is not there any more, or another one came after it.
            last = yield ReadLastElection()
            if not isinstance(last, LastElection):
                continue
            if last.sequence > self.token and self.is_mine(last.nonce):
                self.token = last.sequence  # one whose answer was lost
            elif last.sequence != self.token:
                self.step_down()
                return False

    def _next_nonce(self) -> str:
        self._nonces += 1
        return f"{self._incarnation}.{self._nonces}"

    def step_down(self) -> None:
        """Another leads. What is in flight stays: the new leader's word will confirm it."""
        self.leads = False
        self.token = 0

    # -- the word ----------------------------------------------------------------------------------

    def hear(self, word: Word) -> bool:
        """A word of another replica, deposed or not; whether it tells more than what was known.

        While we lead we know better.
        """
        if self.leads or word.through <= self.word.through:
            return False
        self.word = word
        return True

    def speak(self, word: Word) -> None:
        """Our own, while we lead: everything up to ``word.through`` is confirmed."""
        if word.through >= self.word.through:
            self.word = word
