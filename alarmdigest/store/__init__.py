"""Where the state survives a restart. ``base.py`` defines a store; ``lmdb/`` and ``memory.py``
implement it, and ``backup.py`` copies one."""

from pathlib import Path

from alarmdigest.store.base import (
    Checkpoint,
    Store,
    StoreDamaged,
    StoreError,
    StoreInUse,
    StoreTooNew,
)

__all__ = [
    "KINDS",
    "Checkpoint",
    "Store",
    "StoreDamaged",
    "StoreError",
    "StoreInUse",
    "StoreTooNew",
    "open_store",
]

KINDS = ("lmdb", "memory")


def open_store(kind: str, data_dir: Path) -> Store:
    """Open the store of this kind (one of KINDS), and make it if there is none.

    Raises StoreError, and ValueError for another kind.
    """
    # Imported here: a run in memory shall not need LMDB, nor any other store's library.
    if kind == "lmdb":
        from alarmdigest.store.lmdb.store import LmdbStore

        return LmdbStore(data_dir)
    if kind == "memory":
        from alarmdigest.store.memory import MemoryStore

        return MemoryStore()
    raise ValueError(f"no such store: {kind!r}; there are {', '.join(KINDS)}")
