"""Files beside a replica's store which say that its state is not what the others have.

A restart would forget that, and such a replica could be elected, or make snapshots. With its folder
emptied it starts from a snapshot, or reads the input anew.
"""

from __future__ import annotations

import logging
from pathlib import Path

from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

DIVERGED = "diverged"
MISSED = "missed-input"
LONGEST = 1000


class FolderNote:
    """There is none where the state is not in the folder: such a one is never stored, and the next
    start loads what is."""

    def __init__(self, settings: Settings, name: str) -> None:
        in_folder = settings.store == "lmdb"
        self._path = Path(settings.data_dir) / name if in_folder else None

    def read(self) -> str:
        """What is wrong with the state, which is logged; empty if nothing says so."""
        if self._path is None or not self._path.is_file():
            return ""
        why = self._path.read_text(encoding="utf-8", errors="replace")[:LONGEST].strip()
        log.critical(
            "%s before: %s; do not rely on this replica until it is stopped, the folder %s is "
            "emptied, and it is started again",
            self._path.name,
            why,
            self._path.parent,
        )
        return why or "nobody knows any more"

    def write(self, why: str) -> None:
        if self._path is None:
            return
        try:
            self._path.write_text(why + "\n", encoding="utf-8")
        except OSError as error:
            log.error("cannot write %s, so that a restart would forget it: %s", self._path, error)
