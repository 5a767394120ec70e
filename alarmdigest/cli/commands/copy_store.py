"""The command ``copy-store``: the state of one store written to another, see docs/cassandra.md."""

from __future__ import annotations

import sys
from dataclasses import replace

from tqdm import tqdm

from alarmdigest.cli.terminal import write_json, write_line
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.store import Checkpoint, Reader, Store, open_reader, open_store
from alarmdigest.store.copying import copy_state


def copy_store(settings: Settings, from_kind: str, to_kind: str, *, as_json: bool) -> int:
    """Report on stdout; the exit code. Raises StoreError, SettingsError."""
    if from_kind == to_kind:
        raise SettingsError("--from and --to must be different kinds of stores")
    # Whoever uses it afterwards: what is copied is the state of one service or group.
    source = replace(settings, store=from_kind, group="")
    target = replace(source, store=to_kind)
    with open_reader(source) as reader, open_store(target) as store:
        last = copy_with_progress(reader, store)
    if as_json:
        write_json(
            {
                "from": from_kind,
                "to": to_kind,
                "checkpoint": last.number if last is not None else None,
                "rows": last.blocks if last is not None else 0,
            }
        )
    elif last is None:
        write_line("nothing to copy: there is no checkpoint yet")
    else:
        write_line(f"copied and read: checkpoint={last.number} rows={last.blocks}")
    return exit_codes.CLEAN


def copy_with_progress(reader: Reader, store: Store) -> Checkpoint | None:
    """As ``copy_state``, with a bar where a terminal watches."""
    total = 2 * reader.last.blocks if reader.last is not None else 0
    with tqdm(total=total, unit=" rows", disable=not sys.stderr.isatty()) as bar:
        return copy_state(reader, store, bar.update)
