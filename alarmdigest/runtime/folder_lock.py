"""Whose folder it is: an advisory lock on a file in it, with the holder's pid as its text.

The kernel drops such a lock with its last holder, so it cannot be stale, and the pid in it is for
people only.
"""

import fcntl
import os
from pathlib import Path


class FolderLocked(Exception):
    """Someone else holds the lock; ``pid`` is what the file says of them, or "unknown"."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"held by pid {pid}")
        self.pid = pid


def acquire_folder_lock(folder: Path) -> int:
    """Take ``owner.lock`` in ``folder``. The file descriptor returned holds it until it is closed.

    Never waits. Raises FolderLocked when another holds it, in this process or another, and OSError
    when the file cannot be used.
    """
    fd = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise FolderLocked(holder) from None
    except BaseException:
        os.close(fd)
        raise
    return fd
