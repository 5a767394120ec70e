"""Where the state survives a restart. ``base.py`` defines a store; ``lmdb/``, ``cassandra/`` and
``memory.py`` implement it, and ``backup.py`` copies one."""

from collections.abc import Callable

from alarmdigest.settings import Settings, SettingsError
from alarmdigest.store.base import (
    AllRowsNeeded,
    Checkpoint,
    NoState,
    Reader,
    Store,
    StoreAway,
    StoreDamaged,
    StoreError,
    StoreInUse,
    StoreTooNew,
)

__all__ = [
    "AllRowsNeeded",
    "Checkpoint",
    "NoState",
    "Reader",
    "Store",
    "StoreAway",
    "StoreDamaged",
    "StoreError",
    "StoreInUse",
    "StoreTooNew",
    "open_reader",
    "open_store",
]


def open_store(settings: Settings, go_on: Callable[[], bool] = lambda: True) -> Store:
    """Open the store of these settings, and make it if there is none. One that is away is waited
    for while ``go_on()``. Raises StoreError."""
    # Imported here: a run in memory shall not need LMDB, nor any other store's library.
    if settings.store == "lmdb":
        from alarmdigest.store.lmdb.store import LmdbStore

        return LmdbStore(settings.data_dir)
    if settings.store == "cassandra":
        from alarmdigest.store.cassandra.group_store import CassandraGroupStore
        from alarmdigest.store.cassandra.store import CassandraStore
        from alarmdigest.store.cassandra.target import Target

        target = Target.of(settings)
        if settings.group:
            return CassandraGroupStore(target, go_on=go_on)
        return CassandraStore(target, go_on=go_on)
    from alarmdigest.store.memory import MemoryStore

    return MemoryStore()


def open_reader(settings: Settings) -> Reader:
    """The store of these settings, which may be in use. Raises StoreError, and SettingsError for
    one that nobody else can read."""
    if settings.store == "lmdb":
        from alarmdigest.store.lmdb.store import open_for_reading

        return open_for_reading(settings.data_dir)
    if settings.store == "cassandra":
        from alarmdigest.store.cassandra.reader import CassandraReader
        from alarmdigest.store.cassandra.target import Target

        return CassandraReader(Target.of(settings))
    raise SettingsError("--store memory: nobody but the service itself can read that")
