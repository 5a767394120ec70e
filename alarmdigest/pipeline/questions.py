"""What an operator asks of the alarm books. A question goes through the queue of a worker like
everything else, and is answered between two batches, in slices: a large book holds up nobody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from alarmdigest._ext.alarmbook import AlarmBook

# Steps through a book at a time, some 0.1 µs each: a millisecond or two.
SLICE_STEPS = 8 * 1024
# Of one answer about users who are due; who wants all of them asks again.
MOST_DUE_BYTES = 1024 * 1024
MOST_DUE_SLICES = 128


class Question(ABC):
    """To one worker. Once ``answered`` any thread may read what it has found, or that it
    ``failed``. Nobody waits any more for one that is ``cancelled``."""

    def __init__(self, on_answered: Callable[[], None]) -> None:
        """``on_answered`` is called by the worker's thread, and must not wait."""
        self.answered = self.failed = self.cancelled = False
        self._on_answered = on_answered

    def answer_slice(self, book: AlarmBook) -> bool:
        """Look at some more of the book; whether that was all."""
        try:
            done = self.cancelled or self._look(book)
        except MemoryError:  # of the answer: the book is as it was
            done = self.failed = True
        if done:
            self.answered = True
            self._on_answered()
        return done

    @abstractmethod
    def _look(self, book: AlarmBook) -> bool:
        """Whether that was all."""


class RowsOfUser(Question):
    """The ``rows`` of one user, packed as a store has them."""

    def __init__(self, user_id: bytes, on_answered: Callable[[], None]) -> None:
        super().__init__(on_answered)
        self._user_id = user_id
        self.rows = b""

    def _look(self, book: AlarmBook) -> bool:
        self.rows = book.rows_of(self._user_id)
        return True


class DueUsers(Question):
    """Packed ``lines`` (ext/state/due.pxd) of users with due alarms, from ``slot`` on; ``slot`` is
    where it goes on afterwards, 0 at the end. ``slots`` is the size of the table of users: when it
    is not what was expected, the answer begins anew, and is about as much as one would be."""

    def __init__(self, slot: int, slots: int, on_answered: Callable[[], None]) -> None:
        super().__init__(on_answered)
        self.slot, self.slots = slot, slots
        self.lines: list[bytes] = []
        self._bytes = self._slices = 0

    def _look(self, book: AlarmBook) -> bool:
        if self.slots != book.user_slots:
            self.slots, self.slot = book.user_slots, 0
            self.lines, self._bytes, self._slices = [], 0, 0
        lines, self.slot = book.due_users(self.slot, SLICE_STEPS, MOST_DUE_BYTES - self._bytes)
        self.lines.append(lines)
        self._bytes += len(lines)
        self._slices += 1
        return self.slot == 0 or self._bytes >= MOST_DUE_BYTES or self._slices >= MOST_DUE_SLICES


class TopUsers(Question):
    """Packed ``lines`` (ext/state/listing.pxd) of those who may be among the topmost of all, and
    how many there are to be listed, ``found``. Who comes or goes meanwhile may be missing."""

    def __init__(
        self,
        *,
        order: int,
        top: int,
        only_due: bool,
        only_active: bool,
        on_answered: Callable[[], None],
    ) -> None:
        super().__init__(on_answered)
        self._order = order
        self._top = top
        self._only_due = only_due
        self._only_active = only_active
        self._slot = self._slots = 0
        self._floor: tuple[int, int] | None = None
        self.lines: list[bytes] = []
        self.found = self.users = self.alarms = self.due = self.active = 0

    def _look(self, book: AlarmBook) -> bool:
        if self._slots != book.user_slots:  # the first slice, or the table has another size now
            self._slots, self._slot, self._floor = book.user_slots, 0, None
            self.lines, self.found = [], 0
        lines, found, self._slot, least = book.list_users(
            self._slot,
            SLICE_STEPS,
            order=self._order,
            top=self._top,
            only_due=self._only_due,
            only_active=self._only_active,
            floor=self._floor,
        )
        if least is not None:  # so many are above who was the last of a slice
            self._floor = least
        self.lines.append(lines)
        self.found += found
        if self._slot:
            return False
        self.users, self.alarms = book.user_count, book.alarm_count
        self.due, self.active = book.due_count, book.active_count
        return True
