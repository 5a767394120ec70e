"""The command ``snapshot``: make one now, or list those that there are; see docs/snapshots.md."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any

from alarmdigest.cli.client import connect
from alarmdigest.cli.terminal import duration_text, size_text, table, write_json, write_line
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.object_bucket import BucketFull, BucketMissing
from alarmdigest.nats.object_store import ObjectStore
from alarmdigest.pipeline.replica import default_name
from alarmdigest.pipeline.snapshot_terms import SINGLE, SnapshotTerms, open_bucket
from alarmdigest.replication.snapshot_info import SnapshotInfo
from alarmdigest.replication.snapshots import WORKPLACE, Snapshots
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.store.base import Checkpoint
from alarmdigest.store.lmdb.store import open_for_reading

HEADS = ("SNAPSHOT", "POSITION", "AGE", "SIZE", "MADE BY", "VERSION")


def snapshot(settings: Settings, *, only_list: bool, as_json: bool) -> int:
    """The exit code. Raises NatsError, StoreError, SettingsError."""
    connection = connect(settings, "alarmdigest-snapshot")
    try:
        if only_list:
            group = SnapshotTerms.of(settings, {}).group
            objects = open_bucket(connection, settings)
            found = snapshots_of(objects, group)
            if not found and not as_json:
                write_line(printable(f"no snapshots{_whose_there_are(objects)}"))
                return exit_codes.CLEAN
            return _show(found, as_json=as_json)
        return _make(connection, settings, as_json=as_json)
    finally:
        connection.close()


def _make(connection: Connection, settings: Settings, *, as_json: bool) -> int:
    """Of the last checkpoint in the data directory."""
    if settings.store != "lmdb":
        raise SettingsError(f"--store {settings.store}: a snapshot is one of the store on disk")
    with open_for_reading(settings.data_dir) as store:
        last = store.last
    if last is None:
        print("alarmdigest: there is no checkpoint yet", file=sys.stderr)
        return exit_codes.INTERNAL_ERROR
    if last.position is None:
        raise SettingsError(f"the store in {settings.data_dir} is one of core mode: no snapshots")
    # What it was written with, and not what we would write: a start compares them.
    terms = SnapshotTerms.of(settings, last.settings)
    objects = open_bucket(connection, settings)
    snapshots = Snapshots(objects, terms.group)
    about = terms.about(settings.replica_name or default_name())
    _check_group(settings, last)
    if misfit := snapshots.misfit(SnapshotInfo.of(terms.group, last, about), stream=terms.stream):
        raise SettingsError(
            f"no snapshot is made of the store in {settings.data_dir}, since nobody could start "
            f"from it: {misfit}"
        )
    try:
        objects.ensure(create=not settings.no_create_streams)
        made = snapshots.write(
            settings.data_dir,
            about=about,
            workplace=f"{WORKPLACE}-{os.getpid()}",
        )
    except (BucketFull, BucketMissing) as error:
        print(f"alarmdigest: {printable(str(error))}", file=sys.stderr)
        return exit_codes.INTERNAL_ERROR
    assert made is not None  # there was a checkpoint
    if as_json:
        write_json(snapshot_json(made))
    else:
        write_line(
            printable(
                f"made {made.name}: position={made.sequence} rows={made.blocks} bytes={made.size}"
            )
        )
    return exit_codes.CLEAN


def _check_group(settings: Settings, last: Checkpoint) -> None:
    """Raises SettingsError where the store is not one of the group that was named."""
    theirs = last.replica.group or settings.group if last.replica is not None else ""
    if theirs == settings.group:
        return
    whose = f"of a replica of the group {theirs}" if theirs else "of a service that is in no group"
    say = f"say --group {theirs}" if theirs else "leave out --group"
    raise SettingsError(f"the store in {settings.data_dir} is that {whose}: {say}")


def snapshots_of(objects: ObjectStore, group: str) -> list[SnapshotInfo]:
    """The newest first. Raises NatsError."""
    found = []
    try:
        for one in Snapshots(objects, group).newest_first():
            try:
                found.append(SnapshotInfo.from_object(one))
            except ValueError:
                continue
    except BucketMissing:
        return []
    return found


def _whose_there_are(objects: ObjectStore) -> str:
    """Somebody may have forgotten to say which."""
    groups = set()
    try:
        for one in objects.objects(""):
            with suppress(ValueError):
                groups.add(SnapshotInfo.from_object(one).group)
    except BucketMissing:
        return ""
    named = sorted(group for group in groups if not group.startswith(SINGLE))
    alone = " of this one" if groups else ""
    return f"{alone}; there are some of --group {', '.join(named)}" if named else alone


def _show(found: list[SnapshotInfo], *, as_json: bool) -> int:
    if as_json:
        write_json({"snapshots": [snapshot_json(one) for one in found]})
        return exit_codes.CLEAN
    now_ns = time.time_ns()
    rows = [
        (
            one.name,
            str(one.sequence),
            duration_text(max(0.0, (now_ns - one.written_at_ns) / 1e9)),
            size_text(one.size),
            one.about.get("made_by", ""),
            one.version,
        )
        for one in found
    ]
    for line in table(HEADS, rows):
        write_line(printable(line))
    return exit_codes.CLEAN


def snapshot_json(info: SnapshotInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "group": info.group,
        "position": info.sequence,
        "rows": info.blocks,
        "bytes": info.size,
        "state_of_ns": info.written_at_ns,
        "stored_at_ns": info.stored_at_ns,
        "made_by": info.about.get("made_by", ""),
        "version": info.version,
    }
