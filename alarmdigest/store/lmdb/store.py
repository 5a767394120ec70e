"""The embedded store: LMDB in ``<data_dir>/state``, one write transaction per checkpoint.

LMDB writes every page to a place that the last checkpoint does not use and syncs before it changes
over, so a process or a machine may die at any instant. It does not validate its file: it maps it,
and a missing or invalid page crashes the process. So all pages are checked before it is opened
(ext/rows/pages.pyx), every value is followed by a seal, a checksum of its key and of it
(ext/rows/rows.pyx), and the rows are counted. No ``writemap`` either: a full disk would be a
SIGBUS, too.
"""

import logging
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import lmdb

from alarmdigest._ext.rows import CommitBatch, pack
from alarmdigest.runtime import failpoints
from alarmdigest.runtime.folder_lock import FolderLocked, acquire_folder_lock
from alarmdigest.runtime.logs import Fields
from alarmdigest.store.base import (
    Checkpoint,
    NoState,
    Reader,
    Store,
    StoreError,
    StoreInUse,
    wrong_count,
)
from alarmdigest.store.lmdb import folder as folders
from alarmdigest.store.lmdb.file import (
    CHECKPOINT_KEY,
    DATA,
    FORMAT_KEY,
    MAP_SIZE,
    RECORDS,
    Transaction,
    begin,
    check_pages,
    grow,
    last_checkpoint,
    lengthen,
    open_env,
    refuse_root,
    scan,
    translating_lmdb_errors,
)
from alarmdigest.store.lmdb.folder import damaged

log = logging.getLogger(__name__)

TURN = 0.0001
"""Seconds, see _short_turns."""


class LmdbStore(Store):
    """Raises StoreError from its constructor, and then has neither a file nor a lock open."""

    def __init__(self, data_dir: Path, *, map_size: int = MAP_SIZE) -> None:
        self._folder = data_dir.resolve() / "state"
        self._map_size = map_size
        self._env: lmdb.Environment | None = None
        self._reading: Transaction | None = None
        self._owner: int | None = None
        with translating_lmdb_errors(self._folder, "open"):
            folders.make(self._folder)
            try:
                self._owner = acquire_folder_lock(self._folder)
            except FolderLocked as error:
                raise StoreInUse(
                    f"{self._folder} is in use by another alarmdigest (pid {error.pid}): stop it, "
                    "or choose another data directory"
                ) from None
        try:
            with translating_lmdb_errors(self._folder, "open"):
                self._open(may_be_new=True)
        except BaseException:
            self.close()
            raise

    def rows(self) -> Iterator[bytes]:
        self._stop_reading()
        with translating_lmdb_errors(self._folder, "read"):
            txn = self._reading = begin(self._ready())
        return scan(txn, self.last, self._folder, going_on=lambda: self._reading is txn)

    def commit(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        batch = CommitBatch(rows)
        self._stop_reading()  # it would pin old pages, and the map cannot grow under it
        try:
            with translating_lmdb_errors(self._folder, "write to"), _short_turns():
                self._write(self._ready(), batch, checkpoint)
        except BaseException:
            # After some errors LMDB takes no more writes until it is opened again.
            self._close_env()
            raise
        self.last = checkpoint
        # A row lies anywhere among the others, one that is deleted, too.
        self.touched_bytes = len(batch) * mmap.PAGESIZE

    def release_memory(self) -> None:
        """LMDB keeps every page that a commit has ever changed, for the next one, until its end:
        some 160 MB after a commit of a million new alarms."""
        if self._env is not None:
            self._stop_reading()
            self._close_env()
            with translating_lmdb_errors(self._folder, "open"):
                self._env = open_env(self._folder, readonly=False, map_size=self._map_size)

    def close(self) -> None:
        self._stop_reading()
        self._close_env()
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    # -- writing

    def _write(self, env: lmdb.Environment, batch: CommitBatch, checkpoint: Checkpoint) -> None:
        # Twice: pages are written anew, and are not full. A guess that saves work done in vain.
        grow(env, 2 * batch.size)
        while True:
            try:
                with begin(env, write=True) as txn:
                    self._fill(txn, batch, checkpoint)
                failpoints.reach("store.after_write")
                lengthen(env, self._folder)
                return
            except lmdb.MapFullError:
                grow(env, env.info()["map_size"])

    def _fill(self, txn: Transaction, batch: CommitBatch, checkpoint: Checkpoint) -> None:
        # In the order of keys, so that each page is visited once.
        with txn.cursor() as cursor:
            cursor.putmulti(batch.puts())
        for key in batch.deletions():
            txn.delete(key)
        failpoints.reach("store.between_rows_and_position")
        txn.put(CHECKPOINT_KEY, checkpoint.to_record())
        holds = txn.stat()["entries"] - RECORDS
        if holds != checkpoint.blocks:
            raise wrong_count(str(self._folder), holds, checkpoint.blocks)

    def _ready(self) -> lmdb.Environment:
        """The open environment; opened again after an error."""
        if self._owner is None:
            raise StoreError(f"the store in {self._folder} was closed")
        return self._env or self._open(may_be_new=False)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.abort()
            self._reading = None

    def _close_env(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    # -- opening

    def _open(self, *, may_be_new: bool) -> lmdb.Environment:
        """Open it, make it if it may be new, and see what the last checkpoint is: a commit whose
        sync failed may have reached the disk nevertheless."""
        folder, data = self._folder, self._folder / DATA
        marked = folders.read_marker(folder) is not None
        size = data.stat().st_size if data.exists() else 0
        if size == 0 and (marked or not may_be_new):
            raise damaged(folder, "its database is gone")
        if not marked and 0 < size <= 2 * mmap.PAGESIZE:
            # What a first start leaves behind that died before it had written anything.
            data.unlink()
            size = 0
        if size:
            check_pages(folder)
        env = open_env(folder, readonly=False, map_size=self._map_size)
        try:
            if dead := env.reader_check():
                log.info(
                    "released the snapshots of dead readers of the store:%s", Fields(readers=dead)
                )
            with begin(env) as txn:
                version = txn.get(FORMAT_KEY)
                empty = txn.stat()["entries"] == 0
            if version is not None:
                folders.known_version(folder, version.decode("ascii", "replace"))
            elif marked:
                raise damaged(folder, "its database is empty")
            elif not empty:
                raise damaged(folder, "its database is not one of alarmdigest's")
            else:
                with begin(env, write=True) as txn:
                    txn.put(FORMAT_KEY, b"%d" % folders.VERSION)
            if not marked:
                folders.sync(folder)
                folders.write_marker(folder)
            lengthen(env, folder)
            with begin(env) as txn:
                self.last = last_checkpoint(txn, folder)
        except BaseException:
            env.close()
            raise
        self._env = env
        return env


class LmdbReader(Reader):
    """The last checkpoint as of now, read while a service goes on writing.

    Close it soon: the store cannot use again what it frees meanwhile, and grows.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.resolve() / "state"
        with translating_lmdb_errors(self._folder, "read"):
            if folders.read_marker(self._folder) is None:
                raise NoState(
                    f"there is no store in {self._folder}: is the data directory right? (If the "
                    "state is in Cassandra, say --store cassandra)"
                )
            refuse_root(self._folder)
            self._env = open_env(self._folder, readonly=True, map_size=MAP_SIZE)
            try:
                while True:
                    self._txn = begin(self._env)
                    # From here on its pages stay as they are, also those of later checkpoints.
                    if check_pages(self._folder)[0] == self._txn.id():
                        break
                    self._txn.abort()  # the writer was faster
                self.last = last_checkpoint(self._txn, self._folder)
            except BaseException:
                self._env.close()
                raise

    def rows(self) -> Iterator[bytes]:
        return scan(self._txn, self.last, self._folder)

    def copy_to(self, folder: Path) -> None:
        """Write the database into a folder that has none, as of the last checkpoint by then.

        Without its free pages: they hold what was deleted, of users who are forgotten, too.
        Raises lmdb.Error.
        """
        self._env.copy(str(folder), compact=True)

    def rows_below(self, prefix: bytes) -> bytes:
        with translating_lmdb_errors(self._folder, "read"), self._txn.cursor() as cursor:
            items = iter(cursor.iternext() if cursor.set_range(prefix) else ())
            return pack(
                takewhile(lambda item: bytes(item[0]).startswith(prefix), items), sys.maxsize
            )[0]

    def close(self) -> None:
        self._env.close()  # and the transaction with it

    def __enter__(self) -> "LmdbReader":
        return self


def open_for_reading(data_dir: Path) -> LmdbReader:
    """The store of a data directory that may be another process's. Raises StoreError."""
    return LmdbReader(data_dir)


@contextmanager
def _short_turns() -> Iterator[None]:
    """Have busy threads give up the GIL sooner, as long as a commit takes.

    The library gives it up for every row that it writes. Where other threads snatch it each time,
    thousands of turns of 5 ms (the interpreter's default; the service has 0.5) make seconds of a
    commit that takes 0.1 s: 14 s were seen (7,000 rows beside three threads of nothing but Python,
    on two cores); with short ones 0.2 to 0.6 s.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, TURN))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
