"""The state of one store written to another one, of whatever kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alarmdigest._ext.rows import CommitBatch
from alarmdigest.store.base import Checkpoint, Reader, Store, StoreError
from alarmdigest.store.lmdb.store import LmdbStore


def copy_state(reader: Reader, store: Store, tell: Callable[[int], object]) -> Checkpoint | None:
    """Write the last checkpoint with all its rows, and read it back once; None if there is none.

    ``tell`` is called with the number of rows whenever some were read, each row twice. Raises
    StoreError, also where the store holds a checkpoint already.
    """
    if reader.last is None:
        return None
    _require_empty(store)  # before it is taken from a service that uses it
    store.claim()
    _require_empty(store)
    chunks = []
    for chunk in reader.rows():
        tell(len(CommitBatch([chunk])))
        chunks.append(chunk)
    store.commit(chunks, reader.last)
    del chunks
    while store.tidy_up():
        pass
    found = 0
    for chunk in store.rows():
        rows = len(CommitBatch([chunk]))
        found += rows
        tell(rows)
    if found != reader.last.blocks:
        raise StoreError(f"the copy holds {found} rows of {reader.last.blocks}: do not use it")
    return reader.last


def _require_empty(store: Store) -> None:
    if store.last is not None:
        raise StoreError(
            f"there is a state already (checkpoint {store.last.number}): copy into an empty store"
        )


@contextmanager
def new_folder(target: Path) -> Iterator[LmdbStore]:
    """A store in ``target/state``, which must not be there; it is removed where this fails."""
    folder = target.resolve() / "state"
    if folder.exists():
        raise StoreError(f"{folder} is there already: choose another target")
    try:
        with LmdbStore(target) as store:
            yield store
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
