"""A copy of the store, also while a service writes to it, and putting one back.

Copying the file of a running service by other means is not safe: its pages change meanwhile.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from alarmdigest.runtime.folder_lock import FolderLocked, acquire_folder_lock
from alarmdigest.store.base import Checkpoint, StoreError, StoreInUse
from alarmdigest.store.lmdb.file import DATA, translating_lmdb_errors
from alarmdigest.store.lmdb.folder import make, read_marker, sync, write_marker
from alarmdigest.store.lmdb.store import open_for_reading

LOCK = "lock.mdb"  # LMDB's own, beside its database
BEAT_S = 0.1
NICENESS = 10
REFUSED = "no backup: "  # how the process of ``back_up_beside`` begins what it could not do


def back_up(data_dir: Path, target: Path) -> Checkpoint | None:
    """Make ``target/state``, which is what ``data_dir/state`` was at the last checkpoint.

    Copy, sync, and read every row of the copy once; the checkpoint that it holds.

    Raises StoreError, also when there is a ``state`` in ``target`` already, whatever it is.
    """
    folder = target.resolve() / "state"
    with open_for_reading(data_dir) as reader, translating_lmdb_errors(folder, "write to"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700)  # ours alone: to be read by nobody else, and to be removed
        except FileExistsError:
            raise StoreError(f"{folder} is there already: choose another target") from None
        try:
            sync(folder.parent)
            reader.copy_to(folder)
            (folder / DATA).chmod(0o600)
            with (folder / DATA).open("rb") as file:
                os.fsync(file.fileno())
            write_marker(folder)
            return read_whole(target)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)  # what it holds is no backup
            if isinstance(error, StoreError):
                raise StoreError(
                    f"no backup of {data_dir}, its copy cannot be read and is removed: {error}"
                ) from error
            raise


def back_up_beside(
    data_dir: Path, target: Path, *, sign_of_life: Callable[[], None] = lambda: None
) -> Checkpoint | None:
    """``back_up`` in a process of its own, while this one has the store open: LMDB opens a database
    once only in a process, and reading all rows would hold up the other threads.

    ``sign_of_life`` is called ten times a second; what it raises ends it.
    """
    command = [
        sys.executable,
        "-m",
        "alarmdigest.store.backup",
        str(data_dir.resolve()),
        str(target.resolve()),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        try:
            while True:
                sign_of_life()
                try:
                    record, said = child.communicate(timeout=BEAT_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            child.kill()
            child.communicate()
            shutil.rmtree(target.resolve() / "state", ignore_errors=True)
            raise
    if child.returncode != 0:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"the process ended with {child.returncode}"
        raise StoreError(why.removeprefix(REFUSED))
    return Checkpoint.from_record(record) if record else None


def read_whole(target: Path) -> Checkpoint | None:
    """Read every row of a copy once; its checkpoint. Raises StoreError where a row is not as it was
    written, or not there."""
    with open_for_reading(target) as copy:
        for _chunk in copy.rows():
            pass
        return copy.last


def require_empty(data_dir: Path) -> None:
    """Raise StoreError unless ``data_dir/state`` is not there, or has no checkpoint."""
    folder = data_dir.resolve() / "state"
    with translating_lmdb_errors(folder, "read"):
        if read_marker(folder) is None:
            data = folder / DATA
            # A first start that died leaves two pages of nothing.
            empty = not data.exists() or data.stat().st_size <= 2 * mmap.PAGESIZE
        else:
            with open_for_reading(data_dir) as reader:
                empty = reader.last is None
    if not empty:
        raise StoreError(f"{folder} holds a store already: nothing was put there")


def put_back(copy: Path, data_dir: Path) -> None:
    """Move ``copy/state``, as ``back_up`` made it, to ``data_dir/state``, where no checkpoint may
    be. Both must be on the same file system; what is left of ``copy`` is of no use.

    A process that dies meanwhile leaves all of it there, or nothing. Raises StoreError.
    """
    folder = data_dir.resolve() / "state"
    with translating_lmdb_errors(folder, "write to"):
        make(folder)
        try:
            owner = acquire_folder_lock(folder)
        except FolderLocked as error:
            raise StoreInUse(f"{folder} is in use by an alarmdigest (pid {error.pid})") from None
        try:
            require_empty(data_dir)
            (folder / LOCK).unlink(missing_ok=True)  # that of the database that goes
            (copy / "state" / DATA).replace(folder / DATA)
            sync(folder)
            write_marker(folder)
        finally:
            os.close(owner)


def _main() -> None:
    os.nice(NICENESS)  # the service that we copy for has work to do
    try:
        last = back_up(Path(sys.argv[1]), Path(sys.argv[2]))
    except StoreError as error:
        sys.exit(REFUSED + str(error))
    if last is not None:
        sys.stdout.buffer.write(last.to_record())


if __name__ == "__main__":
    _main()
