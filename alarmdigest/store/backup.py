"""A copy of the store, also while a service writes to it.

Copying the file of a running service by other means is not safe: its pages change meanwhile.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from alarmdigest.store.base import Checkpoint, StoreError
from alarmdigest.store.lmdb.file import DATA, translating_lmdb_errors
from alarmdigest.store.lmdb.folder import sync, write_marker
from alarmdigest.store.lmdb.store import open_for_reading


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
            return _read_whole(target)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)  # what it holds is no backup
            if isinstance(error, StoreError):
                raise StoreError(
                    f"no backup of {data_dir}, its copy cannot be read and is removed: {error}"
                ) from error
            raise


def _read_whole(target: Path) -> Checkpoint | None:
    """Raises StoreError where a row is not as it was written, or not there."""
    with open_for_reading(target) as copy:
        for _chunk in copy.rows():
            pass
        return copy.last
