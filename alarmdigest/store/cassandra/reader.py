"""Reading a store that another process writes to, without claiming it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

from alarmdigest._ext.rows import CommitBatch, RowDamaged, pack
from alarmdigest.store.base import CHUNK, NoState, Reader, StoreDamaged, StoreError
from alarmdigest.store.cassandra.database import Database
from alarmdigest.store.cassandra.home import Home, overlaid
from alarmdigest.store.cassandra.journals import Journals
from alarmdigest.store.cassandra.ownership import Ownership
from alarmdigest.store.cassandra.preparing import require_table
from alarmdigest.store.cassandra.record import Head, damaged
from alarmdigest.store.cassandra.target import Target

ATTEMPTS = 5


class CassandraReader(Reader):
    """The last checkpoint as of some moment of the reading. Raises StoreError everywhere.

    First the rows where they belong are read, then the record, and over those rows all journals
    that were not folded when this began: whatever was folded meanwhile is in one of them, since
    folded journals are kept for a while. Where one of them is gone already, it begins again.
    """

    def __init__(self, target: Target) -> None:
        self._database = Database(replace(target, wait_s=0.0))
        self._ownership = Ownership(self._database)
        self._journals = Journals(self._database)
        self._home = Home(self._database)
        self.where = self._database.where
        try:
            require_table(self._database, make=False)
            self.last = self._head().last(self.where)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()

    def rows(self) -> Iterator[bytes]:
        # ``last`` is the checkpoint that they belong to, from the first one on.
        items = self._read(b"")
        expected = self.last.blocks if self.last is not None else 0
        if len(items) != expected:
            raise damaged(self.where, f"it holds {len(items)} rows and should hold {expected}")
        rows = iter(sorted(items.items()))
        while chunk := self._packed(rows, CHUNK):
            yield chunk

    def rows_below(self, prefix: bytes) -> bytes:
        items = self._read(prefix)
        below = sorted(item for item in items.items() if item[0].startswith(prefix))
        return self._packed(iter(below), sys.maxsize)

    def _packed(self, items: Iterator[tuple[bytes, bytes]], limit: int) -> bytes:
        try:
            return pack(items, limit)[0]
        except RowDamaged as error:
            raise damaged(self.where, str(error)) from error

    def _head(self) -> Head:
        record = self._ownership.read()
        if record is None:
            raise NoState(f"there is no state in {self.where}: is the keyspace right?")
        return record.head

    def _read(self, prefix: bytes) -> dict[bytes, bytes]:
        """All rows, or all those that begin so and some others. Sets ``last``."""
        for _ in range(ATTEMPTS):
            before = self._head()
            self._home.newest_read = 0
            home = (
                self._home.rows_below(before.epoch, prefix, {}, sys.maxsize)
                if prefix
                else self._home.rows(before.epoch, {}, sys.maxsize)
            )
            rows = dict(home)
            after = self._head()
            if after.epoch != before.epoch:
                continue
            if self._home.newest_read > after.timestamp:
                raise self._home.tail_lost()
            journals = {one.number: one for one in (*after.folded, *after.journals)}
            needed = {one.number for one in before.journals}
            needed |= set(range(before.number + 1, after.number + 1))
            if not needed <= journals.keys():
                continue  # deleted already
            try:
                batches = [
                    CommitBatch([self._journals.read(journals[number])])
                    for number in sorted(needed)
                ]
            except StoreDamaged:
                if self._head() == after:
                    raise
                continue
            for key, value in overlaid(batches).items():
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
            self.last = after.last(self.where)
            return rows
        raise StoreError(
            f"cannot read {self.where} while a service writes to it: reading takes longer than "
            "folded journals are kept; try again when there is less load"
        )
