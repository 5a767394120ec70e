"""A store in Cassandra: one conditional write a checkpoint.

Cassandra has no transaction over several partitions. So the rows of a commit are written into a
journal first, which nobody reads; one conditional write of the record makes them valid, all at
once; and afterwards, at leisure, they are *folded* into the partitions where they belong. A start
reads those, and the journals that the record still lists over them.

What was delayed on its way may arrive at any time. Rows carry the timestamp of their commit, so an
old one never wins; a journal's parts carry a smaller one than their deletion; and the record
changes only for its owner, from the commit that it had before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from uuid import uuid4

from alarmdigest._ext.rows import KEY_BYTES, CommitBatch, RowDamaged, pack
from alarmdigest.runtime import failpoints
from alarmdigest.runtime.logs import Fields
from alarmdigest.store.base import (
    CHUNK,
    AllRowsNeeded,
    Checkpoint,
    Store,
    StoreDamaged,
    StoreError,
    wrong_count,
)
from alarmdigest.store.cassandra.commits import Pending, Unfolded, hash_of
from alarmdigest.store.cassandra.database import Database
from alarmdigest.store.cassandra.home import Home, overlaid
from alarmdigest.store.cassandra.journals import Journals
from alarmdigest.store.cassandra.ownership import Attempt, Ownership, TailLost
from alarmdigest.store.cassandra.preparing import (
    require_table,
    try_large_write,
    warn_of_periodic_commit_log,
)
from alarmdigest.store.cassandra.record import Head, Journal, damaged
from alarmdigest.store.cassandra.schema import shard_of
from alarmdigest.store.cassandra.target import Target

log = logging.getLogger(__name__)

UNFOLDED_BYTES = 256 * 1024 * 1024
UNFOLDED_JOURNALS = 100
"""A commit waits until there is less than that to fold: it is kept in memory until then."""
KEEP_FOLDED_S = 60.0
KEEP_FOLDED_JOURNALS = 300
"""How long, and how many, folded journals are kept for who is reading the store meanwhile."""
OLD_AT_ONCE = 8
"""So many folded journals are deleted together while there is something to fold."""
DELETED_ROWS = 20_000
"""After so many deletions in one shard everything is written anew elsewhere: each leaves a
tombstone, and Cassandra refuses to read over 100,000."""


class CassandraStore(Store):
    """Raises StoreError from its constructor, and is closed then. It is ours with ``claim``."""

    def __init__(
        self,
        target: Target,
        *,
        term: int | None = None,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """With a ``term``, that of a group's leader, it is claimed only from who had a smaller one;
        the first commit must be of all rows then, and none are read."""
        self._term = term
        self._database = Database(target, go_on=go_on)
        try:
            require_table(self._database, make=True)
            self._journals = Journals(self._database)
            try_large_write(self._journals)
            warn_of_periodic_commit_log(self._database)
            self._home = Home(self._database)
            self._ownership = Ownership(self._database)
            self._readings = 0  # a reading from before a commit ends
            self._unfolded: list[Unfolded] = []
            self._keys: set[bytes] | None = None
            self._pending: Pending | None = None
            self._begun = b""  # what the journal holds that was begun, and is in no record
            self._needs_all_rows = term is not None
            self._wants_all_rows = self._needs_all_rows
            self._newest = Head()  # of all that were ever valid
            # When a record first said so (time.monotonic()), of those that are still there.
            self._folded_at: dict[Journal, float] = {}
            self._deleted: set[Journal] = set()
            self._must_reclaim = False
            self._dropped_epochs: set[int] = set()
            seen = self._ownership.read()
            self.last = seen.head.last(self.where) if seen is not None else None
            self._database.log_connected(self.last.number if self.last is not None else None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()

    @property
    def where(self) -> str:
        return self._database.where

    @property
    def trouble(self) -> str:  # type: ignore[override]
        return self._database.trouble

    # -- claiming

    @property
    def wants_all_rows(self) -> bool:
        return self._wants_all_rows

    def claim(self) -> None:
        if self._ownership.record is not None:
            return
        record = self._ownership.claim(self._term or 0)
        self._folded_at = dict.fromkeys(record.head.folded, time.monotonic())
        self.last = record.head.last(self.where)
        self._newest = record.head
        try:
            self._unfolded = [
                Unfolded(journal, self._batch([self._journals.read(journal)]))
                for journal in record.head.journals
                if self._term is None
            ]
        except StoreDamaged:
            self._ownership.require_ours()
            raise
        # What earlier owners have begun is not listed, and never will be.
        self._delete_begun()
        if self.last is not None:
            log.info(
                "claimed the store in %s:%s",
                self.where,
                Fields(checkpoint=self.last.number, journals=len(self._unfolded)),
            )

    def raise_term(self, term: int) -> None:
        """Of the same leader, who was elected again. Raises StoreError and StoreTaken."""
        if self._must_reclaim:
            self._reclaim(term)
            return
        if self._pending is not None:
            self._settle(self._pending)
        self._renew(term)

    def _delete_begun(self) -> None:
        record = self._ownership.record
        assert record is not None
        self._journals.delete_begun(record.begun)
        self._ownership.forget_prior()
        self._begun = b""

    @property
    def _head(self) -> Head:
        assert self._ownership.record is not None
        return self._ownership.record.head

    def _batch(self, chunks: Sequence[bytes]) -> CommitBatch:
        try:
            return CommitBatch(chunks)
        except ValueError as error:
            raise damaged(self.where, str(error)) from error

    # -- reading

    def rows(self) -> Iterator[bytes]:
        self._readings += 1
        return self._undisturbed_rows(self._readings)

    def _undisturbed_rows(self, reading: int) -> Iterator[bytes]:
        try:
            yield from self._rows(reading)
        except StoreDamaged:
            self._ownership.require_ours()  # else it is the next owner's work that we have met
            raise

    def _rows(self, reading: int) -> Iterator[bytes]:
        overlay = overlaid(one.batch for one in self._unfolded)
        keys: set[bytes] = set()

        def noted() -> Iterator[tuple[bytes, bytes]]:
            for item in self._home.rows(self._head.epoch, overlay, self._head.timestamp):
                keys.add(item[0])
                yield item

        items, previous = noted(), b""
        while True:
            if reading != self._readings:
                raise StoreError(f"the rows of {self.where} were read on after a commit")
            try:
                chunk, count, previous = pack(items, CHUNK, previous)
            except RowDamaged as error:
                raise damaged(self.where, str(error)) from error
            if not count:
                break
            yield chunk
        expected = self.last.blocks if self.last is not None else 0
        if len(keys) != expected:
            raise damaged(self.where, f"it holds {len(keys)} rows and should hold {expected}")
        self._keys = keys

    # -- writing

    @property
    def unfolded_bytes(self) -> int:  # type: ignore[override]
        keys = sum(len(one.batch) for one in self._unfolded if not one.done) * KEY_BYTES
        return keys + sum(one.batch.size for one in self._unfolded if not one.done)

    def commit(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        self._commit(rows, checkpoint, anew=False)

    def commit_all(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        self._commit(rows, checkpoint, anew=True)

    def _commit(self, rows: Sequence[bytes], checkpoint: Checkpoint, *, anew: bool) -> None:
        batch = CommitBatch(rows)
        what = hash_of(rows, checkpoint)
        self._readings += 1
        if self._must_reclaim:
            self._reclaim()
        if (pending := self._pending) is not None:
            self._settle(pending)
            if pending.what == what:
                return
        if self._needs_all_rows and not anew:
            raise AllRowsNeeded(f"{self.where} needs all rows now, not only those that changed")
        self._check_count(batch, checkpoint, anew=anew)
        if self._begun not in (b"", what):
            # Its parts may be on their way still, and those of another one must not meet them.
            self._renew()
        self._begun = what
        if not anew:
            self._fold_down()
        head = self._next_head(checkpoint, batch, anew=anew)
        if len(batch):
            number = head.number + 1
            journal = self._journals.write(self._ownership.owner, number, rows, head.timestamp)
            head = replace(head, number=number, journals=[*head.journals, journal])
            failpoints.reach("cassandra.journal_written")
        self._pending = Pending(what, Attempt(uuid4(), head), checkpoint, batch, anew)
        self._settle(self._pending)

    def _settle(self, pending: Pending) -> None:
        """Until it is known that it is valid. Raises StoreError, and TailLost."""
        try:
            self._ownership.commit(pending.attempt)
        except TailLost:
            self._tail_is_lost()
            raise
        self._pending, self._begun = None, b""
        self.last, self._newest = pending.checkpoint, pending.attempt.head
        now = time.monotonic()
        self._folded_at = {one: self._folded_at.get(one, now) for one in self._newest.folded}
        self._deleted &= self._folded_at.keys()
        self._dropped_epochs &= set(self._newest.dead_epochs)
        batch = pending.batch
        self.touched_bytes = batch.size
        if pending.anew:
            self._unfolded.clear()
            self._keys = set()
            self.rewritten += 1
            self._needs_all_rows = self._wants_all_rows = False
        if self._keys is not None:
            self._keys.update(batch.put_keys())
            self._keys.difference_update(batch.deletions())
        listed = set(self._newest.journals)
        self._unfolded = [one for one in self._unfolded if one.journal in listed]
        if len(batch):
            self._unfolded.append(Unfolded(self._newest.journals[-1], batch))
        if max(self._newest.deleted.values(), default=0) >= DELETED_ROWS:
            self._wants_all_rows = True

    def _renew(self, term: int | None = None) -> None:
        try:
            self._ownership.renew(term)
        except TailLost:
            self._tail_is_lost()
            raise
        self._delete_begun()

    def _tail_is_lost(self) -> None:
        """Nothing that is there counts any more, but for whose it is."""
        self._pending, self._begun = None, b""
        self._needs_all_rows = self._wants_all_rows = True
        self._unfolded.clear()
        self._must_reclaim = True

    def _reclaim(self, term: int | None = None) -> None:
        head = self._ownership.reclaim(term).head
        known = {*head.journals, *head.folded}
        self._journals.delete(
            one for one in (*self._newest.journals, *self._newest.folded) if one not in known
        )
        self._delete_begun()
        self._must_reclaim = False

    def _check_count(self, batch: CommitBatch, checkpoint: Checkpoint, *, anew: bool) -> None:
        if self._keys is None and not anew:
            for _ in self.rows():
                pass
        keys = set() if anew or self._keys is None else self._keys
        added = sum(key not in keys for key in batch.put_keys())
        removed = sum(key in keys for key in batch.deletions())
        if (blocks := len(keys) + added - removed) != checkpoint.blocks:
            raise wrong_count(self.where, blocks, checkpoint.blocks)

    def _next_head(self, checkpoint: Checkpoint, batch: CommitBatch, *, anew: bool) -> Head:
        """The present one with this checkpoint, and without what is folded and deleted."""
        now_us = time.time_ns() // 1000
        head, newest = self._head, self._newest
        over = list(head.journals) if anew else [one.journal for one in self._unfolded if one.done]
        folded = [one for one in head.folded if one not in self._deleted]
        folded += over
        timestamp = max(head.timestamp + 1, newest.timestamp + 1, now_us)
        dead = {one for one in head.dead_epochs if one not in self._dropped_epochs}
        epoch, deleted = head.epoch, dict(head.deleted)
        if anew:
            dead |= {head.epoch, newest.epoch}
            # Nobody else ever takes the same, also if this one is lost.
            epoch, deleted = timestamp, {}
        for key in batch.deletions():
            shard = shard_of(key)
            deleted[shard] = deleted.get(shard, 0) + 1
        return Head(
            checkpoint=checkpoint.to_record().decode(),
            number=head.number,
            timestamp=timestamp,
            epoch=epoch,
            journals=[one for one in head.journals if one not in over],
            folded=folded,
            deleted=deleted,
            dead_epochs=sorted(dead),
        )

    # -- at leisure

    def tidy_up(self) -> bool:
        # First, and also where there is always something to fold: they and the record would grow.
        unfolded = [one for one in self._unfolded if not one.done]
        if self._delete_old_journals(at_least=OLD_AT_ONCE if unfolded else 1):
            return True
        for one in unfolded:
            self._fold_on(one)
            return True
        head = self._head
        for epoch in head.dead_epochs:
            if epoch not in self._dropped_epochs:
                self._home.drop_epoch(epoch, head.timestamp)
                self._dropped_epochs.add(epoch)
                return True
        return False

    def _delete_old_journals(self, *, at_least: int) -> bool:
        """Folded ones that nobody can be reading any more, if there are so many; whether it has."""
        until = time.monotonic() - KEEP_FOLDED_S
        kept = [one for one in self._head.folded if one not in self._deleted]
        too_many = len(kept) - KEEP_FOLDED_JOURNALS
        old = [
            one
            for place, one in enumerate(kept)
            if place < too_many or self._folded_at.get(one, until) <= until
        ]
        if len(old) < at_least:
            return False
        self._journals.delete(old)
        self._deleted.update(old)
        return True

    def _fold_on(self, one: Unfolded) -> None:
        """A slice of it. Raises StoreError; it begins again then."""
        if one.folding is None:
            one.folding = self._home.fold(self._head.epoch, one.batch, one.journal.timestamp)
        try:
            next(one.folding)
        except StopIteration:
            one.done = True
            one.batch = CommitBatch(())  # it is where it belongs
            failpoints.reach("cassandra.folded")
        except BaseException:
            one.folding = None
            raise

    def _fold_down(self) -> None:
        while (
            self.unfolded_bytes > UNFOLDED_BYTES
            or sum(not one.done for one in self._unfolded) > UNFOLDED_JOURNALS
        ):
            self.tidy_up()
