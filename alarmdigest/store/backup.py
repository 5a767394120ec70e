"""A copy of the store, also while a service writes to it; see docs/operating.md.

``python -m alarmdigest.store.backup DATA_DIR TARGET`` makes ``TARGET/state``, which is a data
directory's state as of the last checkpoint. Copying the file of a running service by other means
is not safe: its pages change meanwhile.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from alarmdigest import exit_codes
from alarmdigest.store.base import Checkpoint, StoreError
from alarmdigest.store.folder import make, write_marker
from alarmdigest.store.lmdb import open_for_reading
from alarmdigest.store.lmdb_file import DATA, explained


def back_up(data_dir: Path, target: Path) -> Checkpoint | None:
    """Copy, sync, and read every row of the copy once; the checkpoint that it holds.

    Raises StoreError, also when there is a store in ``target`` already.
    """
    folder = target.resolve() / "state"
    with open_for_reading(data_dir) as reader, explained(folder, "write to"):
        if (folder / DATA).exists():
            raise StoreError(f"there is a store in {folder} already: choose another target")
        try:
            make(folder)
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m alarmdigest.store.backup",
        description="Copies the store of a data directory, while its service runs or not.",
    )
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="what --data-dir names")
    parser.add_argument("target", type=Path, metavar="TARGET", help="a directory for the copy")
    given = parser.parse_args(arguments)
    try:
        last = back_up(given.data_dir, given.target)
    except StoreError as error:
        print(f"backup: {error}", file=sys.stderr)
        return exit_codes.STORE_UNUSABLE
    if last is None:
        print("copied and read: no checkpoint yet")
    else:
        position = last.position.sequence if last.position is not None else "none"
        print(f"copied and read: checkpoint={last.number} rows={last.blocks} position={position}")
    return exit_codes.CLEAN


if __name__ == "__main__":
    sys.exit(main())
