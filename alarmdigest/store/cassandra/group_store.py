"""The store of a group: every replica loads from it, and the leader writes it.

A follower keeps nothing: its checkpoints only move on what it would go on from. Who is elected
claims the store with its *term*, which is greater than that of every leader before. It writes
nothing before it has come as far as what is stored, and then all rows anew once, since its own
state, and not what the store holds, is what it publishes from. From then on it writes what has
changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from alarmdigest.store.base import Checkpoint, Store
from alarmdigest.store.cassandra.database import Database
from alarmdigest.store.cassandra.ownership import Ownership, StoreTaken
from alarmdigest.store.cassandra.preparing import require_table
from alarmdigest.store.cassandra.reader import CassandraReader
from alarmdigest.store.cassandra.store import CassandraStore
from alarmdigest.store.cassandra.target import Target

log = logging.getLogger(__name__)


class CassandraGroupStore(Store):
    """``last`` is the newest checkpoint that is complete here, be it stored or not."""

    def __init__(self, target: Target, *, go_on: Callable[[], bool] = lambda: True) -> None:
        """Loads all rows, without a claim. Raises StoreError."""
        self._target = target
        self._term: Callable[[], int | None] = lambda: None
        self._claimed: CassandraStore | None = None
        self._claimed_term = 0
        # Something was not written that nobody will bring again, unless all rows are.
        self._skipped = True
        self._is_behind = False
        self._loaded: list[bytes] = []
        if _holds_a_state(target, go_on):
            with CassandraReader(target) as reader:
                self._loaded = list(reader.rows())
                self.last = reader.last

    def share(self, term: Callable[[], int | None]) -> None:
        self._term = term

    @property
    def wants_all_rows(self) -> bool:
        claimed = self._claimed
        if self._term() is None:
            return False
        return self._skipped or claimed is None or claimed.wants_all_rows

    def rows(self) -> Iterator[bytes]:
        """Once: they are not kept."""
        loaded, self._loaded = self._loaded, []
        return iter(loaded)

    def commit(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        self._commit(rows, checkpoint, anew=False)

    def commit_all(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        self._commit(rows, checkpoint, anew=True)

    def _commit(self, rows: Sequence[bytes], checkpoint: Checkpoint, *, anew: bool) -> None:
        term = self._term()
        if term is None or (self._skipped and not anew):
            self._skip(checkpoint)
            return
        try:
            store = self._claim(term)
            stored = store.last
            self._is_behind = (
                self._skipped and stored is not None and _is_further(stored, checkpoint)
            )
            if self._is_behind:
                self._skip(checkpoint)  # another one had come further
                return
            if stored is not None:
                checkpoint = replace(checkpoint, number=max(checkpoint.number, stored.number + 1))
            (store.commit_all if anew else store.commit)(rows, checkpoint)
        except StoreTaken:
            # Another one was elected, and we have not heard of it yet.
            log.info("the store was claimed by another replica of the group")
            self._give_up_claim()
            self._skip(checkpoint)
            return
        self._skipped = False
        self.rewritten += anew
        self.last = checkpoint
        self.touched_bytes = store.touched_bytes

    def _claim(self, term: int) -> CassandraStore:
        """Raises StoreError, StoreTaken, and TermTooSmall: then we do not lead any more, as we are
        about to hear; or the stream that terms come from was put back."""
        if self._claimed is None:
            store = CassandraStore(self._target, term=term)
            try:
                store.claim()
            except BaseException:
                store.close()
                raise
            self._claimed, self._skipped = store, True
        elif term != self._claimed_term:
            self._claimed.raise_term(term)
        self._claimed_term = term
        return self._claimed

    def _skip(self, checkpoint: Checkpoint) -> None:
        self._skipped = True
        self.last = checkpoint
        self.touched_bytes = 0

    def _give_up_claim(self) -> None:
        if (claimed := self._claimed) is not None:
            self._claimed = None
            claimed.close()

    @property
    def unfolded_bytes(self) -> int:  # type: ignore[override]
        claimed = self._claimed
        return claimed.unfolded_bytes if claimed is not None else 0

    @property
    def trouble(self) -> str:  # type: ignore[override]
        claimed = self._claimed
        if claimed is None:
            return ""
        if self._is_behind:
            return "what is stored is further than we are, and we write once we have come so far"
        return claimed.trouble

    def tidy_up(self) -> bool:
        if self._claimed is None or self._term() is None:
            return False
        return self._claimed.tidy_up()

    def close(self) -> None:
        self._give_up_claim()


def _is_further(stored: Checkpoint, ours: Checkpoint) -> bool:
    """By the place in the stream; where that is not the same stream any more, by arrival, which
    --accept-clock-step may have set back."""
    theirs, mine = stored.position, ours.position
    if theirs is not None and mine is not None and theirs.created == mine.created:
        return theirs.sequence > mine.sequence
    return stored.arrival_ns > ours.arrival_ns


def _holds_a_state(target: Target, go_on: Callable[[], bool]) -> bool:
    """Whether there is a record; makes the table if there is none. Raises StoreError."""
    database = Database(target, go_on=go_on)
    try:
        require_table(database, make=True)
        record = Ownership(database).read()
        last = record.head.last(database.where) if record is not None else None
        database.log_connected(last.number if last is not None else None)
        return record is not None
    finally:
        database.close()
