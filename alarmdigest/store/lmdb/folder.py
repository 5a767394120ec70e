"""The folder of the embedded store: its marker, and what is said about it when something is wrong.

``FORMAT`` says whose folder this is and in which version. It is written once, before the first
checkpoint, so where it is there must be a database too: one that has gone is not taken for a new
start, which would be silent loss.
"""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from alarmdigest.store.base import StoreDamaged, StoreError, StoreTooNew

VERSION = 1
MARKER = "FORMAT"
TITLE = "alarmdigest store"


def make(folder: Path) -> None:
    """Make the folder if it is not there, for its owner only. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync(folder.parent)


def read_marker(folder: Path) -> int | None:
    """The version in the marker, None where there is no marker.

    Raises StoreTooNew, StoreDamaged when it cannot be understood, and OSError.
    """
    try:
        text = (folder / MARKER).read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    lines = text.splitlines()
    if len(lines) < 2 or lines[0] != TITLE or not lines[1].startswith("version "):
        raise damaged(folder, f"its file {MARKER} is not one of alarmdigest's")
    return known_version(folder, lines[1].removeprefix("version "))


def known_version(folder: Path, text: str) -> int:
    """The version, as a number. Raises StoreTooNew, and StoreDamaged when it is none."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise damaged(folder, f"its version is {text!r}")
    if int(text) > VERSION:
        raise StoreTooNew(
            f"{folder} was written by a newer alarmdigest (format {text}, this one knows up to "
            f"{VERSION}): start that version, or choose another data directory"
        )
    return int(text)


def write_marker(folder: Path) -> None:
    """Write the marker, whole or not at all. Raises OSError."""
    new = folder / f"{MARKER}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, f"{TITLE}\nversion {VERSION}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    new.rename(folder / MARKER)
    sync(folder)


def sync(folder: Path) -> None:
    """Make what was created or renamed in a folder survive a power failure. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def damaged(folder: Path, why: str) -> StoreDamaged:
    return StoreDamaged(
        f"the store in {folder} is damaged: {why}. Put back a backup of this folder, or move it "
        "away to start with an empty store, which reads the input stream from its first message"
    )


def cannot(folder: Path, doing: str, error: object) -> StoreError:
    """What to raise when the disk or the system refuses: with the space left, since a full disk
    does not always call itself one."""
    if os.strerror(errno.EACCES) in str(error):  # LMDB's errors tell it by their text only
        return StoreError(
            f"cannot {doing} the store in {folder}: {error}. Nothing was changed; the folder and "
            "all in it must belong to the user that the service runs as"
        )
    space = ""
    with suppress(OSError):
        space = f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB are free there)"
    return StoreError(
        f"cannot {doing} the store in {folder}: {error}{space}. Nothing was changed; make sure "
        "that the disk is well and has room, and that the folder is ours to write to"
    )
