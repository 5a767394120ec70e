"""What the embedded store's owner and its readers do alike with the LMDB file: open it without
trusting it, read a snapshot of it, and say what went wrong."""

import errno
import importlib
import os
import stat
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
LOCK = "lock.mdb"

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


def leave_to_owner(folder: Path) -> None:
    """Before root reads there: have a lock file that is plain, and the data's owner's.

    LMDB writes to it, and makes it where there is none, as in a backup put back. Were it a link,
    root would write to a file of the choice of whoever owns the folder; and one of root's would
    keep the service out. Raises StoreError where a file is not plain, and OSError.
    """
    if os.geteuid() != 0:
        return
    data = (folder / DATA).lstat()
    if not stat.S_ISREG(data.st_mode):
        raise _not_plain(folder / DATA)
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.EROFS:
            return  # LMDB cannot write to it either, and reads without it
        if error.errno == errno.ELOOP:
            raise _not_plain(folder / LOCK) from None
        raise
    try:
        lock = os.fstat(fd)
        if not stat.S_ISREG(lock.st_mode) or lock.st_nlink != 1:
            raise _not_plain(folder / LOCK)
        if lock.st_uid != data.st_uid:
            os.fchown(fd, data.st_uid, data.st_gid)
    finally:
        os.close(fd)  # before LMDB locks it: this would take away the locks of the whole process


def _not_plain(path: Path) -> StoreError:
    return StoreError(
        f"{path} is no plain file of the store, and root follows no links there: find out who has "
        f"made it, stop the service and put the file itself there ({LOCK} may just be removed)"
    )


@contextmanager
def as_owner(folder: Path) -> Iterator[Path]:
    """Have root be no more than the owner of the folder meanwhile; what to call the folder.

    LMDB opens files by their names, and the owner can put a link there at the last moment, behind
    any look at them. The folder is entered first: it may lie where its owner does not get in, as
    with systemd's DynamicUser. Raises OSError.
    """
    if os.geteuid() != 0:
        yield folder
        return
    # What LMDB's binding imports when it first opens: Python may lie where the owner has no access.
    with suppress(ImportError):  # other versions have no such part
        importlib.import_module("lmdb._envid")
    groups, gid = os.getgroups(), os.getegid()
    before = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.chdir(folder)
        owner = os.stat(".")
        if owner.st_uid:  # changing nothing may be forbidden, too: in a container
            os.setgroups([owner.st_gid])
            os.setegid(owner.st_gid)
            os.seteuid(owner.st_uid)
        yield Path()
    finally:
        if os.geteuid():
            os.seteuid(0)
            os.setegid(gid)
            os.setgroups(groups)
        os.fchdir(before)
        os.close(before)


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
