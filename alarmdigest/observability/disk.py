"""How much the store takes on its disk, and how much is free there."""

from __future__ import annotations

import os
from pathlib import Path

BLOCK_BYTES = 512  # what st_blocks counts in, whatever the file system has


def store_bytes(data_dir: Path) -> int:
    """What the store's files take on the disk; 0 where there is none."""
    return _taken(data_dir / "state")


def free_bytes(data_dir: Path) -> int | None:
    """What is free for us, where the data directory is or will be; None when nobody can tell."""
    for folder in (data_dir, *data_dir.absolute().parents):
        try:
            found = os.statvfs(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return found.f_bavail * found.f_frsize
    return None


def _taken(folder: Path) -> int:
    try:
        return sum(entry.stat().st_blocks for entry in os.scandir(folder)) * BLOCK_BYTES
    except OSError:
        return 0
