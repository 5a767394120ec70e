"""Whose store it is: the record, read and written, and claimed from whoever had it before.

Every claim is made under a fresh id, and every commit names the one before it, so a write that was
delayed on its way, of an earlier owner or of our own, is refused whenever it arrives.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from alarmdigest.runtime import failpoints
from alarmdigest.store.base import AllRowsNeeded, StoreError, StoreInUse
from alarmdigest.store.cassandra.database import Database, Errors, in_words
from alarmdigest.store.cassandra.record import Head, Record, damaged
from alarmdigest.store.cassandra.schema import RECORD, RECORD_KEY, TABLE

NOBODY = UUID(int=0)
# Of one conditional write whose answer did not come: the same again tells what became of it.
ATTEMPTS = 3
CLAIM_ATTEMPTS = 10
CLAIM_PAUSE_S = 0.3


class StoreTaken(StoreInUse):
    """Somebody else has claimed it since."""


class TermTooSmall(StoreError):
    """The store was claimed with a greater term than ours."""


class TailLost(AllRowsNeeded):
    """The cluster has lost commits that it had confirmed."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A commit that was sent, and whose answer may be outstanding."""

    commit: UUID
    head: Head


class Ownership:
    """``record`` is the newest that is known to be valid; it is ours once ``claim`` has returned.

    ``claimed_from`` are all who had it before, and all ids that we ever claimed it under: it is one
    of theirs again only where a claim was lost, or is ours without our knowing.
    """

    def __init__(self, database: Database) -> None:
        table = f'"{database.target.keyspace}".{TABLE}'
        self._database = database
        self._read_cql = (
            f"SELECT owner, term, commit_id, prior, head FROM {table} WHERE p = ? AND k = ?"
        )
        self._create_cql = (
            f"INSERT INTO {table} (p, k, owner, term, commit_id, prior, head) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS"
        )
        self._claim_cql = (
            f"UPDATE {table} SET owner = ?, term = ?, prior = ? WHERE p = ? AND k = ? "
            "IF owner = ? AND term <= ?"
        )
        self._forget_prior_cql = (
            f"UPDATE {table} SET prior = ? WHERE p = ? AND k = ? IF owner = ? AND commit_id = ?"
        )
        self._commit_cql = (
            f"UPDATE {table} SET commit_id = ?, prior = ?, head = ? WHERE p = ? AND k = ? "
            "IF owner = ? AND commit_id = ?"
        )
        self._term = 0
        self._trouble = ""
        self._taken_text = (
            f"{database.where} was claimed by another alarmdigest, which was started after us: two "
            "may not use one keyspace at a time, so this one ends"
        )
        self._tail_lost_text = (
            f"{database.where} has lost what it had confirmed, as a node does that crashes with "
            "commitlog_sync: periodic; everything is written anew"
        )
        self.owner = NOBODY
        self.claimed_from: set[UUID] = set()
        self._tried: set[UUID] = set()  # since the last claim that is known to have come about
        self.record: Record | None = None

    def read(self) -> Record | None:
        """The record as it is now; None where there is none. Raises StoreError."""
        rows = self._database.read_serially(self._read_cql, RECORD, RECORD_KEY)
        if not rows:
            return None
        [row] = rows
        if None in (row.owner, row.term, row.commit_id, row.head):
            raise damaged(self._database.where, "its record lacks a part")
        head = Head.from_bytes(row.head, self._database.where)
        return Record(row.owner, row.commit_id, row.term, row.prior or b"", head)

    def claim(self, term: int = 0) -> Record:
        """Make it ours, whoever has it; in a group only from who had a term up to this one.

        Raises StoreError, and TermTooSmall.
        """
        self._term = term
        return self._claim_from(None, None)

    def renew(self, term: int | None = None) -> Record:
        """A new id for who has it already, and another term perhaps; no commit may be under way.
        Raises StoreError, StoreTaken, TermTooSmall, and TailLost."""
        self._term = self._term if term is None else term
        assert self.record is not None
        return self._claim_from({self.owner, *self._tried}, self.record.commit)

    def reclaim(self, term: int | None = None) -> Record:
        """Once the cluster has lost our commits, and our claim perhaps. Raises StoreError,
        StoreTaken, and TermTooSmall."""
        self._term = self._term if term is None else term
        return self._claim_from({self.owner, *self.claimed_from}, None)

    def require_ours(self) -> None:
        """Raises StoreTaken where somebody else has claimed it since, and StoreError."""
        now = self.read()
        if now is None or now.owner != self.owner:
            raise StoreTaken(self._taken_text)

    def forget_prior(self) -> None:
        """Once what earlier owners had begun is deleted. Where it does not come about, the next
        commit does the same. Raises StoreError."""
        record = self.record
        if record is not None and record.prior:
            self._try(self._forget_prior_cql, (b"", RECORD, RECORD_KEY, self.owner, record.commit))

    def _claim_from(self, whom: set[UUID] | None, commit: UUID | None) -> Record:
        """From these owners, None for whoever has it; as of this commit, None for any."""
        mine = NOBODY
        failpoints.reach("cassandra.before_claim")
        attempts = 0
        while (seen := self.read()) is None or seen.owner != mine:
            attempts += 1
            if attempts > CLAIM_ATTEMPTS:
                raise StoreError(f"cannot claim {self._database.where}: {self._trouble}")
            if attempts > 1:
                time.sleep(CLAIM_PAUSE_S)
            if commit is not None and (seen is None or (seen.commit != commit)):
                if seen is not None and whom is not None and seen.owner not in whom:
                    raise StoreTaken(self._taken_text)
                raise TailLost(self._tail_lost_text)
            # A fresh one each time: whoever had it before never has it again under the same id.
            mine = uuid4()
            self._tried.add(mine)
            self.claimed_from.add(mine)
            if seen is None:
                first = (mine, self._term, uuid4(), b"", Head().to_bytes())
                self._try(self._create_cql, (RECORD, RECORD_KEY, *first))
                continue
            owner = seen.owner
            if seen.term > self._term:
                where = self._database.where
                if not self._term:
                    raise TermTooSmall(
                        f"{where} belongs to a group: say --group, too, or copy the state "
                        "elsewhere (alarmdigest copy-store)"
                    )
                raise TermTooSmall(
                    f"{where} belongs to a leader that was elected later; docs/cassandra.md says "
                    "what to do if its digest stream was put back from a copy"
                )
            if whom is not None and owner not in whom:
                raise StoreTaken(self._taken_text)
            self.claimed_from.add(owner)
            values = (mine, self._term, seen.prior + owner.bytes, RECORD, RECORD_KEY)
            self._try(self._claim_cql, (*values, seen.owner, self._term))
        failpoints.reach("cassandra.claimed")
        self._tried.clear()
        self.owner, self.record = mine, seen
        return seen

    def commit(self, attempt: Attempt) -> Record:
        """Make this the valid record; may be called again with the same one.

        Raises StoreError while nobody knows, StoreTaken, and TailLost.
        """
        before = self.record
        assert before is not None
        values = (
            # The journals that earlier owners had begun are deleted before the first commit.
            *(attempt.commit, b"", attempt.head.to_bytes(), RECORD, RECORD_KEY),
            *(self.owner, before.commit),
        )
        for _ in range(ATTEMPTS):
            failpoints.reach("cassandra.before_record")
            applied, now = self._try(self._commit_cql, values)
            failpoints.reach("cassandra.after_record")
            if applied is None:
                continue
            if applied or (now.owner, now.commit_id) == (self.owner, attempt.commit):
                self.record = Record(self.owner, attempt.commit, self._term, b"", attempt.head)
                return self.record
            if now.owner == self.owner or now.owner is None or now.owner in self.claimed_from:
                raise TailLost(self._tail_lost_text)
            raise StoreTaken(self._taken_text)
        raise StoreError(
            f"cannot write to {self._database.where}: nobody knows whether the checkpoint was "
            f"written ({self._trouble})"
        )

    def _try(self, cql: str, values: tuple[object, ...]) -> tuple[bool | None, Any]:
        """Whether a conditional write was applied, None where there was no answer; and what stands
        there instead. Raises StoreError for what no second attempt would change."""
        try:
            rows = self._database.execute_once(cql, *values)
        except Errors as error:
            self._trouble = in_words(error)
            if not _may_have_happened(error):
                raise StoreError(
                    f"cannot write to {self._database.where}: {self._trouble}"
                ) from error
            return None, None
        [row] = rows
        if row.applied:
            return True, None
        return False, _Standing.of(row)


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a refused conditional write tells of the row; nothing where there is no row."""

    owner: UUID | None
    commit_id: UUID | None

    @classmethod
    def of(cls, row: Any) -> _Standing:
        return cls(getattr(row, "owner", None), getattr(row, "commit_id", None))


def _may_have_happened(error: Exception) -> bool:
    """Whether the cluster has taken in the request, perhaps."""
    from cassandra import InvalidRequest, Unauthorized

    return not isinstance(error, (InvalidRequest, Unauthorized))
