"""One process of a replica: the real Leadership and Membership, with simulated input and output."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from replication.simulated_input import Events
from replication.simulated_jetstream import ELECTION, Connection, JetStream, Way
from replication.simulated_pipeline import Checkpoint, Pipeline

from alarmdigest.replication.leadership import (
    Asking,
    Done,
    LastElection,
    Leadership,
    PublishElection,
    Question,
    ReadLastElection,
    ReadOutput,
    Stored,
    Unknown,
)
from alarmdigest.replication.membership import Beat, Membership, NameTaken

DONE = Done()
UNKNOWN = Unknown()
LONGEST_BATCH = 3
RESIGN_AFTER_S = 2.0
RECONNECT_AFTER_S = 2.5
WORDS_AT_ONCE = 3
LOOK_EVERY_S = 0.08


class Process(Pipeline):
    """From its start to its end. What it hears while it is paused, it handles afterwards.

    ``empty``: it has no state, and the input does not hold everything any more.
    """

    leadership_type = Leadership
    membership_type = Membership
    batches_at_once = 1
    list_may_be_full = True

    def __init__(
        self,
        jetstream: JetStream,
        rng: Random,
        index: int,
        folder: Checkpoint,
        way: Way,
        life: int,
        *,
        empty: bool,
        priority: int,
    ) -> None:
        super().__init__(jetstream, rng, index, f"replica-{index}", folder)
        self.clock = jetstream.clock
        self.way = way
        self.incarnation = f"{index}-{life}"
        self.leadership = self.leadership_type(self.incarnation, folder.word)
        self.membership = self.membership_type(self.name, self.incarnation, priority)
        self.empty = empty
        self.connection = Connection(jetstream, way)
        self.dead = False
        self.leave: Callable[[], None] = self.end
        self.paused = False
        self.hangs_until = 0.0  # its thread that publishes; its beats pass
        self.stored = 0
        self.deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.beats_under_way = False
        self._beats_read = 0
        self._beat_back_at = self.clock.now
        self._next_wake = float("inf")
        self._next_look = 0.0
        self._next_word = self._next_checkpoint = 0.0
        self._hurry = False
        # Publishes and questions have numbers. ``_asked`` is that of the question under way:
        # answers to others are ignored.
        self._numbers = self._asked = 0
        self._asking: Asking | None = None
        self._standing = False
        self._reading: ReadOutput | None = None
        self._read_moved_at = 0.0
        self.batches: dict[int, list[int]] = {}
        self.in_doubt = False
        self.wants = ""  # "stand", "renew", "resign": asked for from outside
        self._successor = ""
        self.own_token = 0
        self._late: tuple[int, str] = (0, "")
        self.wake_in(0.001)

    # -- time --------------------------------------------------------------------------------------

    def wake_in(self, seconds: float) -> None:
        when = self.clock.now + seconds
        if when < self._next_wake:
            self._next_wake = when
            self.clock.at(when, self._woken, when)

    def _woken(self, when: float) -> None:
        if when != self._next_wake or self._deferred(self._woken, when):
            return
        self._next_wake = float("inf")
        self.step()

    def _deferred(self, action: Callable[..., None], *arguments: Any) -> bool:
        if self.paused and not self.dead:
            self.deferred.append((action, arguments))
        return self.paused or self.dead

    def resume(self) -> None:
        self.paused = False
        deferred, self.deferred = self.deferred, []
        for action, arguments in deferred:
            if self.paused or self.dead:
                break
            action(*arguments)

    def end(self) -> None:
        self.dead = True
        self.connection.given_up = True

    def step(self) -> None:
        now = self.clock.now
        if now < self.hangs_until:
            self.membership.watch_leader(waits=self.waits_while_hanging())
            self._beat(now)
            if self.membership.asked_to_resign(self.leadership.token):
                self._resign()
            self.wake_in(LOOK_EVERY_S)
            return
        self.read_input()
        if self.queues[0] or self.queues[1]:
            self.work()
        if self._reading is not None:
            self._read_on(self._reading)
        leads = self.leadership.leads
        if now >= self._next_word and len(self.words) < WORDS_AT_ONCE:
            known = self.leadership.word.through if leads else self.passed
            last = self.words[-1].through if self.words else known
            if self.read > last:
                self.send_barrier(for_word=True)
                self._next_word = now + self.rng.choice((0.0, 0.05, 0.3))
        if (
            self.checkpoint is None
            and self.read > self.checkpointed
            and now >= self._next_checkpoint
            and not self.empty
        ):
            self.send_barrier(for_word=False)
            self._next_checkpoint = now + self.rng.choice((0.1, 0.5, 2.0))
        if leads and self.words and self.finish_words():
            self._hurry = True
        if self.checkpoint is not None:
            self.finish_checkpoint()
        if now >= self._next_look or self.wants:
            self._next_look = now + LOOK_EVERY_S
            self._beat(now)
            self._look(now)
        if self.inflight and self.leadership.leads:
            self._speak()
        if self._reading is not None or self.has_work:
            self.wake_in(0.003 + 0.03 * self.rng.random())
        else:
            self.wake_in(LOOK_EVERY_S)

    # -- beats -------------------------------------------------------------------------------------

    def _beat_of(self, number: int) -> Beat:
        return Beat(
            name=self.name,
            incarnation=self.incarnation,
            number=number,
            priority=self.membership.priority,
            token=self.leadership.token,
            position=self.read,
            ready=not self.empty,
            may_not_lead=self.empty,
            successor=self._successor,
            word=self.leadership.word,
            progress=self.stored + self.known,
            full=self.jetstream.full,
            resign=self.membership.should_resign,
        )

    def _beat(self, now: float) -> None:
        if now - self._beat_back_at >= RECONNECT_AFTER_S:
            self._beat_back_at = now
            self.reconnect()
        if self.membership.beat_due(now, hurry=self._hurry):
            self._hurry = False
            beat = self._beat_of(self.membership.next_number(now))
            self.connection.send(None, "store_beat", beat)

    def beats_seen(self) -> None:
        if self._deferred(self.beats_seen):
            return
        self.beats_under_way = False
        # One message per name is left: who was slow does not see the others.
        news = sorted(
            (number, name)
            for name, (number, _) in self.jetstream.beats.items()
            if number > self._beats_read
        )
        for number, name in news:
            self._beats_read = number
            if not self.dead:
                self._hear(self.jetstream.beats[name][1])

    def _hear(self, beat: Beat) -> None:
        now = self.clock.now
        rounds = self.membership.rounds
        try:
            self.membership.hear(beat, now)
        except NameTaken:
            self.jetstream.judge.names_taken += 1
            self.leave()
            return
        if self.membership.rounds > rounds:
            self._beat_back_at = now
        if self.membership.claimed_token > self.membership.token:
            stale = self.rng.random() < 0.2
            self.connection.send(self._last_election_told, "last_election", stale)
        if self.leadership.hear(beat.word):
            self.compare()
            self.wake_in(0.001)
        if beat.successor == self.name:
            self.wake_in(0.001)

    def _last_election_told(self, answer: object) -> None:
        if isinstance(answer, LastElection) and not self._deferred(
            self._last_election_told, answer
        ):
            self.membership.note_last_election(answer.sequence)

    def leader_message_seen(self, sequence: int, nonce: str) -> None:
        if self._deferred(self.leader_message_seen, sequence, nonce):
            return
        self.membership.note_token(sequence)
        if sequence >= self._late[0]:
            self._late = (sequence, nonce)

    # -- leadership --------------------------------------------------------------------------------

    def waits_for_leader(self) -> bool:
        """Of who is not behind the word, all that is in flight lies beyond it."""
        return bool(self.inflight) and not self.behind

    def waits_while_hanging(self) -> bool:
        """What the thread that publishes has told last is not true any more."""
        return False

    def may_stand(self) -> bool:
        return not self.empty and self.membership.priority > 0

    def _look(self, now: float) -> None:
        """Whether there is a reason to publish a leader message."""
        leadership, wants = self.leadership, self.wants
        self.membership.watch_leader(waits=self.waits_for_leader())
        if self._asking is not None:
            if self._reading is not None and now - self._read_moved_at > RESIGN_AFTER_S:
                self._resign()
            return
        if leadership.leads:
            if self.in_doubt or self.membership.token > leadership.token:
                self.in_doubt = False
                self.batches.clear()
                self._ask(leadership.confirm())
            elif wants == "renew" and self.may_renew():
                self.wants = ""
                self._ask(leadership.renew())
            elif wants == "resign" or self.membership.asked_to_resign(leadership.token):
                self.wants = ""
                self._resign()
            return
        self.in_doubt = False
        if wants == "stand":
            self.wants = ""
            stands = self.may_stand()
        elif self._late[0] > self.own_token and leadership.is_mine(self._late[1]):
            # One of ours was stored late, and nobody came after it.
            self._late = (0, "")
            stands = True
        else:
            self.wants = ""
            own = self._beat_of(0)
            stands = self.may_stand() and self.membership.should_stand(own, now)
        if stands and (self.list_may_be_full or not self.full):
            self._standing = True
            self._ask(leadership.stand())

    def may_renew(self) -> bool:
        return not self.batches

    def _resign(self) -> None:
        self._successor = self.membership.readiest()
        self._hurry = True

    def _ask(self, asking: Asking) -> None:
        self._asking = asking
        self._go_on(None)

    def _go_on(self, answer: Any) -> None:
        asking = self._asking
        assert asking is not None
        self._reading = None
        led = self.leadership.leads
        try:
            question = next(asking) if answer is None else asking.send(answer)
        except StopIteration as stop:
            self._asking = None
            self._asked_for_all(led, bool(stop.value))
        else:
            self._pose(question)

    def _asked_for_all(self, led: bool, result: bool) -> None:
        if self._standing:
            self._standing = False
            self.membership.stood(self.clock.now, elected=result)
        if result:
            self.own_token = self.leadership.token
            self.membership.note_token(self.leadership.token)
            # By reading through, or by renewing with nothing under way: known to our own message.
            self.known = self.leadership.token
            self._hurry = True
            # What the word confirms may lie before what was read.
            self.let_go(self.leadership.word)
        elif led:
            self.stepped_down()
        self._successor = ""
        self.wake_in(0.001)

    def stepped_down(self) -> None:
        """What is in flight stays."""
        self.batches.clear()
        self.words.clear()

    def _pose(self, question: Question) -> None:
        if isinstance(question, ReadOutput):
            self.known = question.after
            self._reading = question
            self._read_moved_at = self.clock.now
            self._asked = 0
            self.wake_in(0.001)
        elif isinstance(question, PublishElection):
            self._asked = self._request("store_election", question.nonce, question.expected)
        else:
            assert isinstance(question, ReadLastElection)
            self._asked = self._request("last_election", False)

    def _request(self, operation: str, *arguments: object) -> int:
        self._numbers += 1
        number = self._numbers
        self.connection.send(lambda answer: self._answered(number, answer), operation, *arguments)
        self.clock.at(self.clock.now + self.rng.choice((0.3, 1.0, 2.0)), self._timed_out, number)
        return number

    def _timed_out(self, number: int) -> None:
        if number not in self.batches and (number != self._asked or self._asking is None):
            return
        if self._deferred(self._timed_out, number):
            return
        if self.rng.random() < 0.7:
            self.reconnect()
        else:
            self._answered(number, UNKNOWN)

    def reconnect(self) -> None:
        """A new connection: no answer comes on the old one, but what was sent may be stored."""
        self.connection.given_up = True
        self.connection = Connection(self.jetstream, self.way)
        for number in list(self.batches):
            self._answered(number, UNKNOWN)
        if self._asking is not None:
            self._go_on(UNKNOWN)
        if self.leadership.leads and self._asking is None:
            self.in_doubt = True

    def _answered(self, number: int, answer: object) -> None:
        if self._deferred(self._answered, number, answer):
            return
        if self.clock.now < self.hangs_until:  # the thread reads it afterwards
            self.clock.at(self.hangs_until, self._answered, number, answer)
            return
        if number in self.batches:
            self.batch_answered(self.batches.pop(number), answer)
        elif number == self._asked and self._asking is not None:
            self._go_on(answer)
        self.wake_in(0.001)

    # -- the output --------------------------------------------------------------------------------

    def read_through(self, question: ReadOutput) -> int:
        """Up to where to read."""
        return question.token

    def _read_on(self, question: ReadOutput) -> None:
        output, token = self.jetstream.output, self.read_through(question)
        seen = min(self.jetstream.output_seen(self.index), token)
        while self.known < seen:
            id = output[self.known + 1]
            if id != ELECTION:
                if self.reading_pauses(id):
                    break
                self.stored_id_read(id, self.known + 1)
            self.known += 1
            self._read_moved_at = self.clock.now
        if self.known >= token:
            self._go_on(DONE)
        elif self.known >= seen and self.rng.random() < 0.1:
            self._go_on(UNKNOWN)  # its server says that there is no more

    def may_speak(self) -> bool:
        return self._asking is None and not self.in_doubt

    def _speak(self) -> None:
        """Send what is in flight: in order, one batch on its way at a time."""
        if not self.may_speak() or len(self.batches) >= self.batches_at_once:
            return
        count = self.rng.randint(1, LONGEST_BATCH)
        under_way = {id for ids in self.batches.values() for id in ids}
        batch: list[tuple[int, Events]] = []
        for id, body in self.inflight.items():
            if len(batch) == count:
                break
            if id not in under_way:
                batch.append((id, body))
        if batch:
            number = self._request("store_digests", batch, self.leadership.token)
            self.batches[number] = [id for id, _ in batch]

    def batch_answered(self, ids: list[int], answer: object) -> None:
        if isinstance(answer, Stored):
            for id in ids:
                self.inflight.pop(id, None)
            self.stored += len(ids)
            self.known = answer.sequence
        else:
            self.in_doubt = True
