"""Stores with one safeguard left out each, to see that a test finds it."""

from __future__ import annotations

from alarmdigest.store.cassandra.commits import Pending, Unfolded
from alarmdigest.store.cassandra.store import CassandraStore


class NoFence(CassandraStore):
    """Whoever comes last writes the record."""

    def _settle(self, pending: Pending) -> None:
        now = self._ownership.read()
        assert now is not None
        assert now.owner is not None
        self._ownership.owner, self._ownership.record = now.owner, now
        super()._settle(pending)


class AnyCommitOfTheOwner(CassandraStore):
    """A commit does not name the one before it."""

    def claim(self) -> None:
        super().claim()
        named = "owner = ? AND commit_id = ?"
        assert named in self._ownership._commit_cql
        self._ownership._commit_cql = self._ownership._commit_cql.replace(
            named, "owner = ? AND owner != ?"
        )


class NoTimestamps(CassandraStore):
    """Rows where they belong are of who wrote them last, as with the server's own timestamps."""

    def _fold_on(self, one: Unfolded) -> None:
        if one.folding is None:
            newest = self._ownership.read()
            assert newest is not None
            later = max(newest.head.timestamp, one.journal.timestamp) + 1
            one.folding = self._home.fold(self._head.epoch, one.batch, later)
        super()._fold_on(one)


class FoldedBeforeTheRecord(CassandraStore):
    """Rows are written to where they belong before they are valid."""

    def _settle(self, pending: Pending) -> None:
        head = pending.attempt.head
        for _ in self._home.fold(head.epoch, pending.batch, head.timestamp):
            pass
        super()._settle(pending)


class JournalsDeletedAtOnce(CassandraStore):
    """A folded journal goes before a record says that it is folded."""

    def _fold_on(self, one: Unfolded) -> None:
        super()._fold_on(one)
        if one.done:
            self._journals.delete([one.journal])


class JournalNumbersUsedTwice(CassandraStore):
    """Other rows are written over the journal that was begun."""

    @property
    def _begun(self) -> bytes:
        return b""

    @_begun.setter
    def _begun(self, what: bytes) -> None:
        pass
