"""A start with an empty data directory: the state comes from a snapshot, if there is one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping

from alarmdigest.nats.object_bucket import BucketMissing
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.snapshot_terms import SnapshotTerms, open_bucket
from alarmdigest.replication.snapshot_info import SnapshotInfo
from alarmdigest.replication.snapshot_request import ask_for_snapshot
from alarmdigest.replication.snapshots import Snapshots
from alarmdigest.runtime import log_writer
from alarmdigest.runtime.logs import Fields
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

# How often it is said how much is there: to a person who waits, and to a log.
TELL_EVERY_S = 1.0
TELL_LOG_EVERY_S = 30.0
# For one that another replica has promised: it looks every ten seconds at most, and needs a few for
# a million alarms.
MADE_WITHIN_S = 60.0
LOOK_EVERY_S = 0.5


class NotToGoOn(Exception):
    """The start is to end before it is complete."""


def restore_snapshot(
    reconnector: Reconnector,
    settings: Settings,
    content_settings: Mapping[str, int],
    go_on: Callable[[], bool],
) -> SnapshotInfo | None:
    """Put the newest snapshot that fits into the data directory, whose store must be empty and
    closed; None if there is none. Those that are refused are logged by name.

    Raises NatsError, StoreError, and NotToGoOn once ``go_on()`` is false.
    """
    terms = SnapshotTerms.of(settings, content_settings)
    progress = _Progress(terms, go_on)
    started = time.monotonic()
    connection = reconnector.connect_with_backoff(go_on)
    if connection is None:
        raise NotToGoOn
    try:
        objects = open_bucket(connection, settings)
        snapshots = Snapshots(objects, terms.group)

        def restore() -> SnapshotInfo | None:
            try:
                return snapshots.restore(
                    settings.data_dir,
                    stream=terms.stream,
                    settings=content_settings,
                    fits=progress.misfit,
                    progress=progress,
                )
            except BucketMissing:
                return None

        info = restore()
        # Where the input still holds everything it can be read instead.
        stream = None if info is not None else objects.stream_info(terms.stream)
        needs_one = settings.group and stream is not None and stream.first_seq > 1
        if needs_one and _is_promised(reconnector, settings.group, go_on):
            log.info("no snapshot suits; another replica makes one for us")
            info = _wait_for_one(restore, snapshots, go_on)
    finally:
        connection.close()
    if info is None:
        log.info("the store is empty, and there is no snapshot to start from")
        return None
    log.info(
        "restored the state from a snapshot:%s",
        Fields(**_told(info), seconds=time.monotonic() - started),
    )
    return info


def _is_promised(reconnector: Reconnector, group: str, go_on: Callable[[], bool]) -> bool:
    """Whether another replica says that it makes one for us."""
    connection = reconnector.connect_with_backoff(go_on)
    if connection is None:
        raise NotToGoOn
    try:
        return ask_for_snapshot(connection, group)
    finally:
        connection.close()


def _wait_for_one(
    restore: Callable[[], SnapshotInfo | None], snapshots: Snapshots, go_on: Callable[[], bool]
) -> SnapshotInfo | None:
    """None if none has come in time that suits. Raises as ``restore_snapshot`` does."""
    give_up_at = time.monotonic() + MADE_WITHIN_S
    names = _names(snapshots)
    while time.monotonic() < give_up_at:
        if not go_on():
            raise NotToGoOn
        time.sleep(LOOK_EVERY_S)
        if (now := _names(snapshots)) != names:
            names = now
            if (info := restore()) is not None:
                return info
    return None


def _names(snapshots: Snapshots) -> list[str]:
    try:
        return [one.nuid for one in snapshots.newest_first()]
    except BucketMissing:
        return []


def _told(info: SnapshotInfo) -> dict[str, str | int | float]:
    return {
        "snapshot": info.name,
        "position": info.sequence,
        "age_seconds": max(0.0, (time.time_ns() - info.written_at_ns) / 1e9),
        "bytes": info.size,
        "made_by": info.about.get("made_by", ""),
    }


class _Progress:
    """Says which snapshot is fetched, and how much of it is there."""

    def __init__(self, terms: SnapshotTerms, go_on: Callable[[], bool]) -> None:
        self._terms = terms
        self._go_on = go_on
        self._told_at = 0.0
        self._every_s = TELL_EVERY_S if os.isatty(log_writer.STDERR) else TELL_LOG_EVERY_S

    def misfit(self, info: SnapshotInfo) -> str:
        """Asked right before one is fetched."""
        if why := self._terms.misfit(info):
            return why
        log.info("the store is empty: restoring it from a snapshot%s", Fields(**_told(info)))
        self._told_at = time.monotonic()
        return ""

    def __call__(self, done: int, size: int) -> None:
        if not self._go_on():
            raise NotToGoOn
        if time.monotonic() - self._told_at >= self._every_s:
            self._told_at = time.monotonic()
            log.info("restoring: %d %% of %.1f MB", 100 * done // max(1, size), size / 1e6)
