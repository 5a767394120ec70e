"""When a checkpointer lets its store return what only large commits need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.rows import key_of, packed, some_rows
from support.wait import eventually

from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.pipeline.checkpointer import Checkpointer
from alarmdigest.store.lmdb.store import LmdbStore

# More than enough pages to be large, in few bytes where they are deletions.
COUNT = 10_000


class Watched(LmdbStore):
    """A store on disk that notes, after each commit, whether its memory was returned."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.released = 0

    def release_memory(self) -> None:
        self.released += 1
        super().release_memory()


def fail(_thread: object, error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("kind", ["new rows", "deletions"])
def test_after_a_large_commit_memory_is_returned_with_the_next_small_one(
    tmp_path: Path, kind: str
) -> None:
    rows = packed(some_rows(COUNT, size=40))
    gone = packed({key_of(f"user-{number}"): b"" for number in range(COUNT)})
    with Watched(tmp_path) as store:
        checkpointer = Checkpointer(store, workers=1, content_settings={}, on_failure=fail)
        checkpointer.start()

        def checkpoint(number: int, chunks: Sequence[bytes], blocks: int) -> None:
            barrier = Barrier(number, None, number)
            checkpointer.rows_taken(barrier, list(chunks), blocks)
            checkpointer.confirmed(barrier, {})
            assert barrier.done.wait(20)

        checkpoint(1, [rows], COUNT)
        if kind == "deletions":
            checkpoint(2, [], COUNT)
            assert store.released == 1
            assert len(gone) < 1024 * 1024
            checkpoint(3, [gone], 0)
        before = store.released
        checkpoint(4, [], COUNT if kind == "new rows" else 0)
        assert store.released == before + 1
        checkpoint(5, [], COUNT if kind == "new rows" else 0)
        assert store.released == before + 1, "once is enough"
        checkpointer.stop()
        eventually(lambda: not checkpointer.is_alive(), what="its end")
