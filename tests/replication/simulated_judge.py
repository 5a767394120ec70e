"""What must be true at any time, checked where things happen."""

from __future__ import annotations

from replication.simulated_input import PARTS, Events, Input

from alarmdigest.replication.word import Word


class Violation(Exception):
    """A promise was broken."""


def totals(made: list[tuple[int, int]]) -> tuple[int, int]:
    """Of all workers: how many digests, and the sum of their ids."""
    return sum(count for count, _ in made), sum(ids for _, ids in made)


class Judge:
    """Sees each digest that is stored, each word that is spoken and each finished checkpoint.

    ``places`` is where each digest stands. ``names_taken`` and ``depositions`` only count.
    """

    def __init__(self, history: Input) -> None:
        self._history = history
        self._latest: dict[int, int] = {}
        self._first_missing = 0  # an index into history.ids
        self.places: dict[int, int] = {}
        self.words = 0
        self.checkpoints = 0
        self.elections = 0
        self.names_taken = 0

    def stored(self, id: int, body: Events, place: int) -> None:
        expected = self._history.expected.get(id)
        if expected is None:
            raise Violation(f"digest {id} at {place} belongs to no request")
        user, content = expected
        if id in self.places:
            raise Violation(f"digest {id} stored twice: at {self.places[id]} and {place}")
        if self._latest.get(user, 0) > id:
            raise Violation(f"user {user}: digest {id} behind {self._latest[user]}, at {place}")
        if body != content:
            raise Violation(f"digest {id} at {place} says {body} instead of {content}")
        self._latest[user] = id
        self.places[id] = place
        ids = self._history.ids
        while self._first_missing < len(ids) and ids[self._first_missing] in self.places:
            self._first_missing += 1

    @property
    def everything_is_stored(self) -> bool:
        return self._first_missing == len(self._history.ids)

    def spoken(self, word: Word, by: str) -> None:
        self.words += 1
        self._check(word.through, f"the word of {by}")
        self._check_place(word, f"the word of {by}")
        self._check_made(word.through, word.digests, word.ids, by)

    def finished(self, through: int, word: Word, made: list[tuple[int, int]], by: str) -> None:
        self.checkpoints += 1
        self._check(through, f"the checkpoint of {by}")
        self._check_place(word, f"the checkpoint of {by}")
        self._check_made(through, *totals(made), by)

    def _check_made(self, through: int, digests: int, ids: int, by: str) -> None:
        """Else one of them would be called diverged."""
        true = self._history.made[through]
        if (digests, ids) != (true, self._history.sums[through]):
            raise Violation(f"{by} has made {digests} digests through {through}, not {true}")

    def _check(self, through: int, what: str) -> None:
        ids = self._history.ids
        if self._first_missing < len(ids) and ids[self._first_missing] < (through + 1) * PARTS:
            missing = ids[self._first_missing]
            raise Violation(f"{what} claims input through {through}, digest {missing} is missing")

    def _check_place(self, word: Word, what: str) -> None:
        places = self.places
        for id in self._history.ids[self._history.made[word.through] :]:
            if id in places and places[id] <= word.after:
                raise Violation(
                    f"{what}: behind {word.after} there is not digest {id}, "
                    f"which lies at {places[id]} and belongs to input after {word.through}"
                )
