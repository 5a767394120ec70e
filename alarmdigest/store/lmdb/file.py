"""What the embedded store's owner and its readers do alike with the LMDB file: open it without
trusting it, read a snapshot of it, and say what went wrong."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import lmdb

from alarmdigest._ext.pages import PagesDamaged, check
from alarmdigest._ext.rows import RowDamaged, pack
from alarmdigest.store.base import CHUNK, Checkpoint, StoreError
from alarmdigest.store.lmdb.folder import cannot, damaged

Transaction: TypeAlias = "lmdb.Transaction[bytes]"  # at run time it is not generic

DATA = "data.mdb"

# Behind every row's key, which begins with a bucket below 4096.
FIRST_RECORD = b"\xff\xff"
FORMAT_KEY = FIRST_RECORD + b"format"
CHECKPOINT_KEY = FIRST_RECORD + b"checkpoint"
RECORDS = 2  # of those two, in a store that has a checkpoint

MAP_SIZE = 64 << 20
"""Bytes of address space to begin with, not of memory; it grows with the data."""
MAP_STEP = 1 << 30
"""By how much a map that doubles grows at most."""


def open_env(folder: Path, *, readonly: bool, map_size: int) -> lmdb.Environment:
    return lmdb.open(
        str(folder),
        map_size=map_size,
        mode=0o600,
        readonly=readonly,
        create=not readonly,
        # Of the two it brings along: this format is the one that ext/rows/pages.pyx knows.
        lib_version=0,
    )


def refuse_root(folder: Path) -> None:
    """LMDB opens its files by name and writes to the lock: in a folder of another user, root could
    be led anywhere by a link. Raises StoreError, and OSError."""
    owner = (folder / DATA).lstat().st_uid
    if os.geteuid() == 0 and owner != 0:
        raise StoreError(
            f"{folder} belongs to the user with uid {owner}, and root does not open another user's "
            f"store: do this as that user (sudo -u '#{owner}' …; docs/operating.md says how under "
            "systemd)"
        )


def check_pages(folder: Path) -> tuple[int, int]:
    """See ext/rows/pages.pyx. Raises PagesDamaged and OSError."""
    with (folder / DATA).open("rb", buffering=0) as file:
        return check(file.fileno(), os.fstat(file.fileno()).st_size)


def lengthen(env: lmdb.Environment, folder: Path) -> None:
    """Let the file end where its pages end, so that no page lies in the map and not in the file.

    Pages that a commit took and gave up again are not written, those at the end neither. This
    takes no room on the disk. Where it is refused, those pages still are none that anybody reads.
    """
    needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if (folder / DATA).stat().st_size < needed:
        with suppress(OSError):
            os.truncate(folder / DATA, needed)


def begin(env: lmdb.Environment, *, write: bool = False) -> Transaction:
    while True:
        try:
            return env.begin(write=write)
        except lmdb.MapResizedError:
            env.set_mapsize(0)  # the size that the writer has given it meanwhile


def grow(env: lmdb.Environment, room: int) -> None:
    """Make the map larger unless so many bytes more fit into it. No transaction may be open."""
    info = env.info()
    needed = (info["last_pgno"] + 1) * env.stat()["psize"] + room
    size = info["map_size"]
    while size < needed:
        size += min(size, MAP_STEP)
    if size > info["map_size"]:
        env.set_mapsize(size)


def last_checkpoint(txn: Transaction, folder: Path) -> Checkpoint | None:
    """The checkpoint record. Raises StoreDamaged when it, or some of its rows, are missing."""
    record, entries = txn.get(CHECKPOINT_KEY), txn.stat()["entries"]
    if record is None:
        if entries >= RECORDS:
            raise damaged(folder, "its checkpoint record is gone")
        return None
    try:
        last = Checkpoint.from_record(record)
    except ValueError as error:
        raise damaged(folder, str(error)) from error
    if entries - RECORDS != last.blocks:
        raise _not_all(folder, entries - RECORDS, last.blocks)
    return last


def scan(
    txn: Transaction,
    last: Checkpoint | None,
    folder: Path,
    *,
    going_on: Callable[[], bool] = lambda: True,
) -> Iterator[bytes]:
    """All rows of a snapshot, checked. Its transaction stays open, and must while this goes on."""
    found, previous = 0, b""
    with translating_lmdb_errors(folder, "read"):
        _must_go_on(folder, going_on)
        cursor = txn.cursor()
        items = iter(cursor.iternext() if cursor.first() else ())
        rows = (item for item in items if item[0] < FIRST_RECORD)
        while True:
            chunk, count, previous = pack(rows, CHUNK, previous)
            if not count:
                break
            found += count
            yield chunk
            _must_go_on(folder, going_on)
    expected = last.blocks if last else 0
    if found != expected:
        raise _not_all(folder, found, expected)


def _must_go_on(folder: Path, going_on: Callable[[], bool]) -> None:
    if not going_on():
        raise StoreError(f"the rows of {folder} were read on after a commit or the end")


def _not_all(folder: Path, found: int, expected: int) -> StoreError:
    return damaged(folder, f"it holds {found} rows and should hold {expected}")


@contextmanager
def translating_lmdb_errors(folder: Path, doing: str) -> Iterator[None]:
    """Have every error of LMDB and the system come out as a StoreError."""
    try:
        yield
    except (
        lmdb.CorruptedError,
        lmdb.InvalidError,
        lmdb.PageNotFoundError,
        lmdb.VersionMismatchError,
        lmdb.IncompatibleError,
        PagesDamaged,
        RowDamaged,
    ) as error:
        raise damaged(folder, str(error)) from error
    except (lmdb.Error, OSError) as error:
        raise cannot(folder, doing, error) from error
