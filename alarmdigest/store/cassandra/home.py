"""Rows where they belong: written there from journals at leisure, and read from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from alarmdigest._ext.rows import CommitBatch
from alarmdigest.runtime import failpoints
from alarmdigest.store.base import StoreDamaged
from alarmdigest.store.cassandra.database import Database
from alarmdigest.store.cassandra.record import damaged
from alarmdigest.store.cassandra.schema import SHARDS, TABLE, home, shard_of

BATCH_BYTES = 60_000
BATCHES_AT_ONCE = 8
SHARDS_AT_ONCE = 4

Overlay = Mapping[bytes, bytes | None]
"""Rows of journals, by key: sealed values, None where the row was deleted."""


class Home:
    """The partitions of one epoch."""

    def __init__(self, database: Database) -> None:
        table = f'"{database.target.keyspace}".{TABLE}'
        self._database = database
        self.newest_read = 0
        """The greatest timestamp of any row that was read so far."""
        self._put_cql = f"INSERT INTO {table} (p, k, v) VALUES (?, ?, ?) USING TIMESTAMP ?"
        self._delete_cql = f"DELETE FROM {table} USING TIMESTAMP ? WHERE p = ? AND k = ?"
        self._drop_cql = f"DELETE FROM {table} USING TIMESTAMP ? WHERE p = ?"
        self._get_cql = f"SELECT k, v, writetime(v) AS t FROM {table} WHERE p = ?"
        self._get_below_cql = (
            f"SELECT k, v, writetime(v) AS t FROM {table} WHERE p = ? AND k >= ? AND k < ?"
        )

    # -- writing

    def fold(self, epoch: int, batch: CommitBatch, timestamp: int) -> Iterator[int]:
        """Write the rows of a journal; after each slice, how many bytes it was. What is repeated
        changes nothing, neither does it if others do the same. Raises StoreError."""
        from cassandra.query import BatchStatement, BatchType

        put, delete = (
            self._database.prepared(self._put_cql),
            self._database.prepared(self._delete_cql),
        )
        consistency = put.consistency_level
        waiting: list[tuple[Any, tuple[()]]] = []
        size = 0
        changes: Iterator[tuple[bytes, bytes | None]] = iter(batch.changes())
        for shard, rows in groupby(changes, key=lambda row: shard_of(row[0])):
            partition = home(epoch, shard)
            together, bytes_together = None, 0
            for key, value in rows:
                if together is None:
                    together = BatchStatement(BatchType.UNLOGGED, consistency_level=consistency)
                    waiting.append((together, ()))
                if value is None:
                    together.add(delete, (timestamp, partition, key))
                else:
                    together.add(put, (partition, key, value, timestamp))
                bytes_together += 64 + len(value or b"")
                if bytes_together >= BATCH_BYTES:
                    size += bytes_together
                    together, bytes_together = None, 0
            size += bytes_together
            if len(waiting) >= BATCHES_AT_ONCE:
                self._database.execute_all(waiting, at_once=BATCHES_AT_ONCE)
                yield size
                waiting, size = [], 0
        # In the middle: of the last slice half is written.
        half = len(waiting) // 2
        self._database.execute_all(waiting[:half], at_once=BATCHES_AT_ONCE)
        failpoints.reach("cassandra.in_fold")
        self._database.execute_all(waiting[half:], at_once=BATCHES_AT_ONCE)
        yield size

    def drop_epoch(self, epoch: int, timestamp: int) -> None:
        """Delete all its partitions. Raises StoreError; may be called again."""
        drop = self._database.prepared(self._drop_cql)
        self._database.execute_all(
            [(drop, (timestamp, home(epoch, shard))) for shard in range(SHARDS)]
        )

    # -- reading

    def rows(self, epoch: int, overlay: Overlay, newest: int) -> Iterator[tuple[bytes, bytes]]:
        """All rows with their sealed values, in the order of their keys.

        Raises StoreError, and StoreDamaged for a row that was written after ``newest``, the
        timestamp of the record: it belongs to a commit that the record does not know.
        """
        by_shard: dict[int, list[bytes]] = {}
        for key in overlay:
            by_shard.setdefault(shard_of(key), []).append(key)
        get = self._database.prepared(self._get_cql)
        for first in range(0, SHARDS, SHARDS_AT_ONCE):
            shards = range(first, min(SHARDS, first + SHARDS_AT_ONCE))
            found = self._database.execute_all(
                [(get, (home(epoch, shard),)) for shard in shards], at_once=SHARDS_AT_ONCE
            )
            for shard, rows in zip(shards, found, strict=True):
                keys = by_shard.get(shard, ())
                yield from self._merged(rows, {key: overlay[key] for key in keys}, newest)

    def rows_below(
        self, epoch: int, prefix: bytes, overlay: Overlay, newest: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """As ``rows``, of those whose keys begin so."""
        end = (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")
        partition = home(epoch, shard_of(prefix))
        rows = self._database.execute(self._get_below_cql, partition, prefix, end)
        here = {key: value for key, value in overlay.items() if key.startswith(prefix)}
        return self._merged(rows, here, newest)

    def _merged(
        self, rows: Iterable[Any], overlay: Overlay, newest: int
    ) -> Iterator[tuple[bytes, bytes]]:
        merged: dict[bytes, bytes | None] = {}
        for row in rows:
            self.newest_read = max(self.newest_read, row.t or 0)
            if self.newest_read > newest:
                raise self.tail_lost()
            merged[row.k] = row.v
        merged.update(overlay)
        for key in sorted(merged):
            value = merged[key]
            if value is not None:
                yield key, value

    def tail_lost(self) -> StoreDamaged:
        return damaged(
            self._database.where,
            "a row was written by a commit that its record does not know: the end of what it had "
            "confirmed is lost",
        )


def overlaid(journals: Iterable[CommitBatch]) -> dict[bytes, bytes | None]:
    """The rows of journals, the oldest first: a later one wins."""
    overlay: dict[bytes, bytes | None] = {}
    for batch in journals:
        overlay.update(batch.changes())
    return overlay
