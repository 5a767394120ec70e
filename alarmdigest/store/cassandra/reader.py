"""Reading a store that another process writes to, without claiming it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from alarmdigest._ext.rows import CommitBatch, RowDamaged, pack
from alarmdigest.store.base import CHUNK, Reader, StoreError
from alarmdigest.store.cassandra.database import Database
from alarmdigest.store.cassandra.home import Home, overlaid
from alarmdigest.store.cassandra.journals import Journals
from alarmdigest.store.cassandra.ownership import Ownership
from alarmdigest.store.cassandra.preparing import require_table
from alarmdigest.store.cassandra.record import KEEP_FOLDED_NS, Head, damaged
from alarmdigest.store.cassandra.target import Target

ATTEMPTS = 3


class CassandraReader(Reader):
    """The last checkpoint as of some moment of the reading. Raises StoreError everywhere.

    First the rows where they belong are read, then the record, and over those rows the journals
    that were not folded when this began: whatever was folded meanwhile is in one of them, since
    folded journals are kept for a minute. A reading that took longer is tried again.
    """

    def __init__(self, target: Target) -> None:
        self._database = Database(target)
        self._ownership = Ownership(self._database)
        self._journals = Journals(self._database)
        self._home = Home(self._database)
        self.where = self._database.where
        try:
            require_table(self._database, make=False)
            head = self._head()
            self.last = head.last(self.where)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()

    def rows(self) -> Iterator[bytes]:
        # ``last`` is the checkpoint that they belong to, from the first one on.
        for _ in range(ATTEMPTS):
            started, head = time.time_ns(), self._head()
            home = dict(self._home.rows(head.epoch, {}, sys.maxsize))
            items = self._overlaid(home, head, started)
            if items is not None:
                yield from self._packed(iter(sorted(items.items())), len(items))
                return
        raise self._too_slow()

    def rows_below(self, prefix: bytes) -> bytes:
        for _ in range(ATTEMPTS):
            started, head = time.time_ns(), self._head()
            home = dict(self._home.rows_below(head.epoch, prefix, {}, sys.maxsize))
            items = self._overlaid(home, head, started)
            if items is not None:
                below = sorted(item for item in items.items() if item[0].startswith(prefix))
                return pack(iter(below), sys.maxsize)[0]
        raise self._too_slow()

    def _head(self) -> Head:
        record = self._ownership.read()
        if record is None:
            raise StoreError(f"there is no state in {self.where}: is the keyspace right?")
        return record.head

    def _overlaid(
        self, home: dict[bytes, bytes], before: Head, started_ns: int
    ) -> dict[bytes, bytes] | None:
        """All rows as of now, None where the reading has to begin again."""
        head = self._head()
        if head.epoch != before.epoch:
            return None
        done = {one.journal for one in before.folded}
        journals = [one.journal for one in head.folded if one.journal not in done]
        journals += head.journals
        if time.time_ns() - started_ns > KEEP_FOLDED_NS // 2:
            return None
        batches = [
            CommitBatch([self._journals.read(one)])
            for one in sorted(journals, key=lambda one: one.timestamp)
        ]
        self.last = head.last(self.where)
        for key, value in overlaid(batches).items():
            if value is None:
                home.pop(key, None)
            else:
                home[key] = value
        return home

    def _packed(self, items: Iterator[tuple[bytes, bytes]], count: int) -> Iterator[bytes]:
        expected = self.last.blocks if self.last is not None else 0
        if count != expected:
            raise damaged(self.where, f"it holds {count} rows and should hold {expected}")
        try:
            while chunk := pack(items, CHUNK)[0]:
                yield chunk
        except RowDamaged as error:
            raise damaged(self.where, str(error)) from error

    def _too_slow(self) -> StoreError:
        return StoreError(
            f"cannot read {self.where} while a service writes to it: it takes longer than folded "
            "journals are kept; try again when there is less load"
        )
