"""What an owner may meet between any two steps of a commit, with a store of any class."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.keyspaces import Keyspace, claimed, partitions_of
from support.rows import Rows, checkpoint, packed, some_rows, unpacked

from alarmdigest.runtime import failpoints
from alarmdigest.store import StoreError, StoreInUse
from alarmdigest.store.cassandra.store import CassandraStore

STEPS = (
    "cassandra.in_journal",
    "cassandra.journal_written",
    "cassandra.before_record",
    "cassandra.after_record",
    "cassandra.in_fold",
    "cassandra.folded",
)
BEFORE_THE_RECORD = STEPS[:3]
ROWS = some_rows(600)
OTHERS = dict.fromkeys(list(ROWS)[:300], b"of the first one")
THEIRS = dict.fromkeys(list(ROWS)[150:450], b"of the second one")
THEIRS |= dict.fromkeys(list(ROWS)[:50], b"")


class Step(Exception):
    """The owner ends here, as a killed one would."""


def at(step: str, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something done once, when a step is reached."""

    def reach(name: str) -> None:
        if name == step:
            monkeypatch.setattr(failpoints, "reach", lambda _name: None)
            action()

    monkeypatch.setattr(failpoints, "reach", reach)


def rows_of(store: CassandraStore) -> Rows:
    return dict(unpacked(store.rows()))


def fold_all(store: CassandraStore) -> None:
    while store.tidy_up():
        pass


def applied(rows: Rows, changes: Rows) -> Rows:
    return {key: value for key, value in (rows | changes).items() if value}


def commit_and_fold(store: CassandraStore, changes: Rows, number: int, of: int = len(ROWS)) -> None:
    """``of`` so many rows that there are afterwards."""
    store.commit([packed(changes)], checkpoint(of, number))
    fold_all(store)


def dies(
    kind: type[CassandraStore], keyspace: Keyspace, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its commit is there afterwards, or nothing."""

    def die() -> None:
        raise Step

    with claimed(keyspace.target, kind) as store:
        commit_and_fold(store, ROWS, 1)
        at(step, die, monkeypatch)
        with pytest.raises(Step):
            commit_and_fold(store, OTHERS, 2)
    with claimed(keyspace.target) as other:
        assert other.last is not None
        assert other.last.number == (1 if step in BEFORE_THE_RECORD else 2)
        expected = ROWS if other.last.number == 1 else applied(ROWS, OTHERS)
        assert rows_of(other) == expected
        fold_all(other)
        other.commit([packed(THEIRS)], checkpoint(len(applied(ROWS, THEIRS)), 3))
        fold_all(other)
        assert rows_of(other) == applied(expected, THEIRS)
        # What was begun and is not listed is gone.
        assert len(partitions_of(keyspace, b"J")) <= 16 * 3


def stands_still(
    kind: type[CassandraStore], keyspace: Keyspace, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one takes over and goes on; what the first does afterwards changes nothing."""
    after: list[Rows] = []

    def take_over() -> None:
        with claimed(keyspace.target) as other:
            expected = applied(rows_of(other), THEIRS)
            other.commit([packed(THEIRS)], checkpoint(len(expected), 10))
            fold_all(other)
            assert rows_of(other) == expected
            after.append(expected)

    with claimed(keyspace.target, kind) as store:
        commit_and_fold(store, ROWS, 1)
        at(step, take_over, monkeypatch)
        if step in BEFORE_THE_RECORD:
            with pytest.raises(StoreInUse, match="claimed by another"):
                commit_and_fold(store, OTHERS, 2)
        else:
            commit_and_fold(store, OTHERS, 2)
        with pytest.raises(StoreInUse):
            store.commit([packed(OTHERS)], checkpoint(len(ROWS), 3))
    with claimed(keyspace.target) as third:
        assert third.last is not None
        assert third.last.number == 10
        assert rows_of(third) == after[0]


def begins_another_journal(
    kind: type[CassandraStore], keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one that failed: its parts may be on their way still, and must not be mixed in."""

    def fail() -> None:
        raise StoreError("the node is busy")

    with claimed(keyspace.target, kind) as store:
        commit_and_fold(store, ROWS, 1)
        at("cassandra.journal_written", fail, monkeypatch)
        with pytest.raises(StoreError, match="busy"):
            store.commit([packed(OTHERS)], checkpoint(len(ROWS), 2))
        changes = dict.fromkeys(list(ROWS)[:10], b"later")
        store.commit([packed(changes)], checkpoint(len(ROWS), 2))
    with claimed(keyspace.target) as other:
        assert rows_of(other) == applied(ROWS, changes)
