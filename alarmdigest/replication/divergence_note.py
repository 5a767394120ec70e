"""A file beside a replica's store which says that most others have made other digests.

A restart would forget that, and a replica that most others disagree with could be elected. With its
folder emptied a replica starts from a snapshot, or reads the input anew.
"""

from __future__ import annotations

import logging
from pathlib import Path

from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

NAME = "diverged"
LONGEST = 1000


class DivergenceNote:
    """There is none where the store is in memory: it is gone with the process."""

    def __init__(self, settings: Settings) -> None:
        in_memory = settings.store == "memory"
        self._path = None if in_memory else Path(settings.data_dir) / NAME

    def read(self) -> str:
        """Why this replica must not lead; empty if nothing says so."""
        if self._path is None or not self._path.is_file():
            return ""
        why = self._path.read_text(encoding="utf-8", errors="replace")[:LONGEST].strip()
        log.critical(
            "diverged before: %s; this replica does not lead until it is stopped, the folder %s is "
            "emptied, and it is started again",
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
            log.error("cannot note that this replica has diverged: %s", error)
