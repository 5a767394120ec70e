"""The store of a group: every replica loads from it, and the leader writes it.

A follower keeps nothing: its checkpoints only move on what it would go on from. Who is elected
claims the store with its *term*, which is greater than that of every leader before, and writes all
rows anew once, since its own state, and not what the store holds, is what it has published from.
From then on it writes what has changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

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

    def __init__(self, target: Target) -> None:
        """Loads all rows, without a claim. Raises StoreError."""
        self._target = target
        self._term: Callable[[], int | None] = lambda: None
        self._claimed: CassandraStore | None = None
        # Something was not written that nobody will bring again, unless all rows are.
        self._skipped = True
        self._loaded: list[bytes] = []
        if _holds_a_state(target):
            with CassandraReader(target) as reader:
                self._loaded = list(reader.rows())
                self.last = reader.last

    def share(self, term: Callable[[], int | None]) -> None:
        self._term = term

    @property
    def wants_all_rows(self) -> bool:
        if self._term() is None:
            return False
        return self._skipped or self._claimed is None or self._claimed.wants_all_rows

    def rows(self) -> Iterator[bytes]:
        """Once: they are not kept."""
        loaded, self._loaded = self._loaded, []
        return iter(loaded)

    def commit(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        if self._term() is None or self._claimed is None or self._skipped:
            self._skip(checkpoint)
            return
        self._write(self._claimed.commit, rows, checkpoint)

    def commit_all(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        term = self._term()
        if term is None:
            self._skip(checkpoint)
            return
        try:
            if self._claimed is None:
                self._claimed = CassandraStore(self._target, term=term)
        except StoreTaken as error:
            log.warning("%s", error)
            self._skip(checkpoint)
            return
        self._write(self._claimed.commit_all, rows, checkpoint)

    def _write(
        self,
        commit: Callable[[Sequence[bytes], Checkpoint], None],
        rows: Sequence[bytes],
        checkpoint: Checkpoint,
    ) -> None:
        assert self._claimed is not None
        try:
            commit(rows, checkpoint)
        except StoreTaken:
            # Another one was elected, and we have not heard of it yet.
            log.info("the store was claimed by another replica of the group")
            self._give_up_claim()
            self._skip(checkpoint)
            return
        self._skipped = False
        self.last = checkpoint
        self.rewritten += commit == self._claimed.commit_all
        self.touched_bytes = self._claimed.touched_bytes

    def _skip(self, checkpoint: Checkpoint) -> None:
        self._skipped = True
        self.last = checkpoint
        self.touched_bytes = 0

    def _give_up_claim(self) -> None:
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None

    @property
    def unfolded_bytes(self) -> int:  # type: ignore[override]
        return self._claimed.unfolded_bytes if self._claimed is not None else 0

    def tidy_up(self) -> bool:
        if self._claimed is None or self._term() is None:
            return False
        return self._claimed.tidy_up()

    def close(self) -> None:
        self._give_up_claim()


def _holds_a_state(target: Target) -> bool:
    """Whether there is a record; makes the table if there is none. Raises StoreError."""
    database = Database(target)
    try:
        require_table(database, make=True)
        return Ownership(database).read() is not None
    finally:
        database.close()
