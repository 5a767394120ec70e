"""The command ``backup``: a checked copy of the store, see docs/operating.md."""

from __future__ import annotations

from pathlib import Path

from alarmdigest._ext import timestamps
from alarmdigest.cli.commands.copy_store import copy_with_progress
from alarmdigest.cli.terminal import write_json, write_line
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings
from alarmdigest.store import open_reader
from alarmdigest.store.backup import back_up
from alarmdigest.store.copying import new_folder


def backup(settings: Settings, target: Path, *, as_json: bool) -> int:
    """Copy to ``target/state``, report on stdout; the exit code. Raises StoreError, SettingsError.

    Without a checkpoint yet, the copy is one of an empty store.
    """
    if settings.store == "lmdb":
        last = back_up(settings.data_dir, target)
    else:
        with open_reader(settings) as reader, new_folder(target) as copy:
            last = copy_with_progress(reader, copy)
    position = last.position.sequence if last is not None and last.position is not None else None
    if as_json:
        write_json(
            {
                "state": str(target.resolve() / "state"),
                "checkpoint": last.number if last is not None else None,
                "written_at": timestamps.to_text(last.written_at_ns) if last is not None else None,
                "rows": last.blocks if last is not None else 0,
                "position": position,
            }
        )
    elif last is None:
        write_line("copied and read: no checkpoint yet")
    else:
        where = "none" if position is None else position
        write_line(f"copied and read: checkpoint={last.number} rows={last.blocks} position={where}")
    return exit_codes.CLEAN
