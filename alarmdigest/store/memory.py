"""A store that forgets: for tests and for runs that need no memory of the last one."""

from collections.abc import Iterator, Sequence

from alarmdigest._ext.rows import CommitBatch, pack
from alarmdigest.store.base import CHUNK, Checkpoint, Store, StoreError, wrong_count


class MemoryStore(Store):
    """The same promises as any other, as long as the process lives."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._commits = 0

    def rows(self) -> Iterator[bytes]:
        commits, items = self._commits, iter(sorted(self._rows.items()))
        while True:
            if commits != self._commits:
                raise StoreError("the rows were read on after a commit")
            chunk, count, _ = pack(items, CHUNK)
            if not count:
                return
            yield chunk

    def commit(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        batch = CommitBatch(rows)
        puts, deletions = dict(batch.puts()), batch.deletions()
        added = sum(key not in self._rows for key in puts)
        removed = sum(key in self._rows for key in deletions)
        blocks = len(self._rows) + added - removed
        if blocks != checkpoint.blocks:
            raise wrong_count("memory", blocks, checkpoint.blocks)
        self._rows.update(puts)
        for key in deletions:
            self._rows.pop(key, None)
        self.last = checkpoint
        self._commits += 1
