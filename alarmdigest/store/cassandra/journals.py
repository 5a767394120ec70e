"""Journals: the rows of a commit, written before the record says that they count."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from alarmdigest.runtime import failpoints
from alarmdigest.store.cassandra.database import Database
from alarmdigest.store.cassandra.record import Journal, damaged
from alarmdigest.store.cassandra.schema import LANES, TABLE, part_key
from alarmdigest.store.cassandra.schema import journal as partition_of

PART_BYTES = 100_000
"""Larger ones met nodes that called themselves overloaded."""

PARTS_OF_A_PAGE = 20
"""So many are read at a time: two megabytes."""

WINDOW = 64
"""Parts that are handed to the driver at a time."""

# A journal's parts are written with 1 and deleted with 2: whatever was delayed on its way, and
# arrives after they were deleted, changes nothing.
WRITTEN, DELETED = 1, 2


class Journals:
    def __init__(self, database: Database) -> None:
        table = f'"{database.target.keyspace}".{TABLE}'
        self._database = database
        self._put_cql = f"INSERT INTO {table} (p, k, v) VALUES (?, ?, ?) USING TIMESTAMP {WRITTEN}"
        self._get_cql = f"SELECT k, v FROM {table} WHERE p = ?"
        self._drop_cql = f"DELETE FROM {table} USING TIMESTAMP {DELETED} WHERE p = ?"

    def write(self, owner: UUID, number: int, rows: Sequence[bytes], timestamp: int) -> Journal:
        """All of it is answered when this returns; nothing of it counts yet. May be called again
        with the same rows after it has failed. Raises StoreError."""
        # Cut while they are sent: in one piece, or all of them at once, they would take their size
        # once more, and copying them would hold up other threads.
        count = sum(-(-len(chunk) // PART_BYTES) for chunk in rows)
        lanes = min(LANES, count)
        put = self._database.prepared(self._put_cql)
        hashed = hashlib.blake2b(digest_size=16)

        def requests() -> Iterator[tuple[object, tuple[bytes, bytes, bytes]]]:
            for part, data in enumerate(_parts(rows)):
                hashed.update(data)
                yield put, (partition_of(owner, number, part % lanes), part_key(part), data)

        for _ in self._database.execute_in_windows(requests(), WINDOW):
            failpoints.reach("cassandra.in_journal")
        size = sum(map(len, rows))
        return Journal(str(owner), number, lanes, count, size, hashed.hexdigest(), timestamp)

    def write_part(self, owner: UUID, data: bytes) -> None:
        """A part that nobody lists, of journal 0. Raises StoreError."""
        put = self._database.prepared(self._put_cql)
        self._database.execute_all([(put, (partition_of(owner, 0, 0), part_key(0), data))])

    def read(self, journal: Journal) -> bytes:
        """The packed rows. Raises StoreError, StoreDamaged where they are not as written."""
        get = self._database.prepared(self._get_cql)
        get.fetch_size = PARTS_OF_A_PAGE
        lanes = [
            (get, (partition_of(journal.owner_id, journal.number, lane),))
            for lane in range(journal.lanes)
        ]
        found = sorted(
            (row.k, row.v) for rows in self._database.execute_all(lanes, at_once=4) for row in rows
        )
        parts = [part for _, part in found]
        if len(parts) != journal.parts or checksum_of(parts) != journal.checksum:
            raise damaged(
                self._database.where,
                f"of journal {journal.number} it holds {len(parts)} parts of {journal.parts} and "
                f"{sum(map(len, parts))} bytes of {journal.size}",
            )
        return b"".join(parts)

    def delete(self, journals: Iterable[Journal]) -> None:
        """For good. Raises StoreError; may be called again."""
        self._delete(
            partition_of(one.owner_id, one.number, lane)
            for one in journals
            for lane in range(one.lanes)
        )

    def delete_begun(self, begun: Iterable[tuple[UUID, int]]) -> None:
        """Of journals that no record lists, only owner and number are known."""
        self._delete(
            partition_of(owner, number, lane) for owner, number in begun for lane in range(LANES)
        )

    def _delete(self, partitions: Iterable[bytes]) -> None:
        drop = self._database.prepared(self._drop_cql)
        self._database.execute_all([(drop, (partition,)) for partition in partitions])


def checksum_of(parts: Iterable[bytes]) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def _parts(rows: Sequence[bytes]) -> Iterator[bytes]:
    for chunk in rows:
        for at in range(0, len(chunk), PART_BYTES):
            yield chunk[at : at + PART_BYTES]
