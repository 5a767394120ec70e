"""One replica's reading, workers, in-flight list and barriers: the part that all roles share.

What may differ between a right replica and a wrong one is in methods of its own, so that a test can
leave a safeguard out by a subclass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from replication.simulated_input import PARTS, WORKERS, Events, digests, worker_of
from replication.simulated_jetstream import JetStream
from replication.simulated_judge import totals

from alarmdigest.replication.leadership import Leadership
from alarmdigest.replication.word import NOTHING_SAID, Word

Book = dict[int, Events]
# A list so many times as long as a full one does not wait for a comparison.
LONG = 3


class Checkpoint:
    """What a folder holds, or a snapshot: everything up to ``through``, and the newest word."""

    __slots__ = ("books", "made", "through", "word")

    def __init__(
        self, through: int, books: list[Book], made: list[tuple[int, int]], word: Word
    ) -> None:
        self.through = through
        self.books = books
        self.made = made
        self.word = word


NEW = Checkpoint(0, [{} for _ in range(WORKERS)], [(0, 0)] * WORKERS, NOTHING_SAID)


def _forget(checkpoint: Checkpoint) -> None:
    pass


class Barrier:
    """Goes through every worker's queue behind input up to ``through``.

    ``after`` is taken when the first worker's arrives; ``books`` and ``made`` are each worker's
    when its own does.
    """

    __slots__ = ("after", "arrived", "books", "for_checkpoint", "for_word", "made", "through")

    def __init__(self, through: int, *, for_word: bool) -> None:
        self.through = through
        self.for_word = for_word
        self.for_checkpoint = not for_word
        self.arrived = 0
        self.after = 0
        self.books: list[Book] = [{} for _ in range(WORKERS)]
        self.made = [(0, 0)] * WORKERS


class Pipeline:
    """``read`` is the input's position, ``inflight`` what was made and is not known to be stored.

    ``early`` are ids that were seen in the output before their request was passed, with their
    places. ``known`` is how far the output is known, while reading through and leading. ``passed``
    is the last barrier that came from every worker. ``made`` counts each worker's digests, and sums
    their ids.
    """

    room = 8
    window = 4

    def __init__(
        self, jetstream: JetStream, rng: Random, index: int, name: str, folder: Checkpoint
    ) -> None:
        self.jetstream = jetstream
        self.rng = rng
        self.index = index
        self.name = name
        self.read = self.passed = self.checkpointed = folder.through
        self.books = [dict(book) for book in folder.books]
        self.made = list(folder.made)
        # Some workers are slow, some stand still at times.
        self.paces = [rng.choice((1, 6, 6)) for _ in range(WORKERS)]
        self.idle = [rng.choice((0.0, 0.0, 0.5, 0.95)) for _ in range(WORKERS)]
        self.queues: list[deque[int | Barrier]] = [deque() for _ in range(WORKERS)]
        self.inflight: dict[int, Events] = {}
        self.early: dict[int, int] = {}
        self.known = 0
        self.leadership: Leadership
        self.compared = folder.word
        self.words: deque[Barrier] = deque()
        self.checkpoint: Barrier | None = None
        self.keep: Callable[[Checkpoint], None] = _forget

    @property
    def full(self) -> bool:
        return len(self.inflight) >= self.room and not self.behind

    # -- a follower lets nothing go that it has not made, too --------------------------------------

    @property
    def behind(self) -> bool:
        """Whether it has still to make something that the word says is stored."""
        return not self.leadership.leads and self.compared.through < self.leadership.word.through

    @property
    def stored_through(self) -> int:
        """A digest of input up to here is stored, and need not be kept."""
        leads, word = self.leadership.leads, self.leadership.word
        return word.through if leads else self.compared.through

    def compare(self) -> None:
        """With the word, once everything up to there is made; or its list is too long to wait."""
        too_long = len(self.inflight) >= LONG * self.room
        if self.behind and (too_long or self.passed >= self.leadership.word.through):
            self.compared = self.leadership.word
            self.let_go(self.compared)

    def let_go(self, word: Word) -> None:
        below = (word.through + 1) * PARTS
        if self.inflight:
            self.inflight = {id: body for id, body in self.inflight.items() if id >= below}
        self.forget_early(word.through)

    # -- reading, and the workers ------------------------------------------------------------------

    def read_input(self) -> None:
        seen = self.jetstream.input_seen(self.index)
        if self.read >= seen or self.full:
            return
        history = self.jetstream.input
        count = 1 + int(8 * self.rng.random())
        for sequence in range(self.read + 1, min(seen, self.read + count) + 1):
            self.queues[worker_of(history.users[sequence])].append(sequence)
            self.read = sequence

    def work(self) -> None:
        random = self.rng.random
        for worker in (0, 1) if random() < 0.5 else (1, 0):
            queue = self.queues[worker]
            if queue and random() >= self.idle[worker]:
                self._work(worker, queue, 1 + int(self.paces[worker] * random()))

    def _work(self, worker: int, queue: deque[int | Barrier], count: int) -> None:
        """While the list is full, the worker waits."""
        history, book = self.jetstream.input, self.books[worker]
        while count and queue and not self.full:
            count -= 1
            item = queue.popleft()
            if isinstance(item, Barrier):
                self._barrier_arrived(item, worker)
            elif history.requests[item]:
                made, ids = self.made[worker]
                for id, body in digests(item, book.pop(history.users[item], ())):
                    made, ids = made + 1, ids + id
                    self.digest_made(id, body)
                self.made[worker] = made, ids
            else:
                user = history.users[item]
                book[user] = (*book.get(user, ()), item)

    @property
    def has_work(self) -> bool:
        if self.full:
            return False
        return any(self.queues) or self.read < self.jetstream.input_seen(self.index)

    def digest_made(self, id: int, body: Events) -> None:
        if id // PARTS > self.stored_through and self.early.pop(id, None) is None:
            self.inflight[id] = body

    # -- the output --------------------------------------------------------------------------------

    def stored_id_read(self, id: int, place: int) -> None:
        """A digest that stands in the output, whoever has sent it."""
        request = id // PARTS
        if self.inflight.pop(id, None) is None and request > max(
            self.passed, self.leadership.word.through
        ):
            self.early.setdefault(id, place)

    def reading_pauses(self, id: int) -> bool:
        """Requests far ahead wait, but while the list is full only reading makes room."""
        return id // PARTS > self.read + self.window and not self.full

    def place(self) -> int:
        """Whatever is stored and not yet passed lies behind this one. A follower knows only that of
        the word: it may have led before, and does not read on."""
        if not self.leadership.leads:
            return self.compared.after
        early = min(self.early.values(), default=0)
        return early - 1 if early else self.known

    # -- barriers ----------------------------------------------------------------------------------

    def send_barrier(self, *, for_word: bool) -> None:
        barrier = Barrier(self.read, for_word=for_word)
        if for_word:
            self.words.append(barrier)
        else:
            self.checkpoint = barrier
        for queue in self.queues:
            queue.append(barrier)

    def _barrier_arrived(self, barrier: Barrier, worker: int) -> None:
        if barrier.arrived == 0:
            barrier.after = self.place()
        barrier.arrived += 1
        barrier.made[worker] = self.made[worker]
        if barrier.for_checkpoint:
            barrier.books[worker] = dict(self.books[worker])
        self.barrier_arrived(barrier)
        if barrier.arrived == WORKERS:
            self.passed = max(self.passed, barrier.through)
            self.forget_early(self.passed)
            if barrier in self.words and not self.leadership.leads:
                self.words.remove(barrier)
            self.compare()

    def barrier_arrived(self, barrier: Barrier) -> None:
        """For subclasses."""

    def forget_early(self, through: int) -> None:
        if self.early:
            below = (through + 1) * PARTS
            self.early = {id: place for id, place in self.early.items() if id >= below}

    def all_arrived(self, barrier: Barrier) -> bool:
        return barrier.arrived == WORKERS

    def all_confirmed(self, through: int) -> bool:
        below = (through + 1) * PARTS
        return not any(id < below for id in self.inflight)

    def after_of(self, barrier: Barrier) -> int:
        return barrier.after

    def finish_words(self) -> bool:
        """Speak what is true by now. Whether there was anything new."""
        spoken = False
        while self.words and self.all_arrived(self.words[0]):
            barrier = self.words[0]
            if not self.all_confirmed(barrier.through):
                break
            self.words.popleft()
            if barrier.through <= self.leadership.word.through:
                continue  # from before it was elected
            digests_made, ids = totals(barrier.made)
            word = Word(barrier.through, 0, self.after_of(barrier), "", digests_made, ids)
            self.jetstream.judge.spoken(word, self.name)
            self.leadership.speak(word)
            self.compared = word
            spoken = True
        return spoken

    def may_finish(self, barrier: Barrier) -> bool:
        return self.stored_through >= barrier.through

    def word_kept(self) -> Word:
        return self.leadership.word if self.leadership.leads else self.compared

    def finish_checkpoint(self) -> None:
        barrier = self.checkpoint
        if barrier is None or not self.all_arrived(barrier) or not self.may_finish(barrier):
            return
        word = self.word_kept()
        self.checkpoint = None
        self.checkpointed = barrier.through
        self.jetstream.judge.finished(barrier.through, word, barrier.made, self.name)
        self.keep(Checkpoint(barrier.through, barrier.books, barrier.made, word))
