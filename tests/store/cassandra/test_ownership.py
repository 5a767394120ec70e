"""One commit is atomic, and nobody but the owner can change anything, at whatever step he stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.cassandra_node import CassandraNode
from support.keyspaces import Keyspace, partitions_of, put_record_back, record_of
from support.rows import Rows, checkpoint, key_of, packed, some_rows, unpacked

from alarmdigest.runtime import failpoints
from alarmdigest.store import AllRowsNeeded, StoreError, StoreInUse
from alarmdigest.store.cassandra.store import CassandraStore

pytestmark = pytest.mark.cassandra

STEPS = (
    "cassandra.in_journal",
    "cassandra.journal_written",
    "cassandra.before_record",
    "cassandra.after_record",
    "cassandra.in_fold",
    "cassandra.folded",
)
ROWS = some_rows(600)
OTHERS = dict.fromkeys(list(ROWS)[:300], b"of the first one")
THEIRS = dict.fromkeys(list(ROWS)[150:450], b"of the second one")
THEIRS |= dict.fromkeys(list(ROWS)[:50], b"")


class Step(Exception):
    """The owner ends here, as a killed one would."""


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], None]], None]:
    """Have something done once, when a step is reached."""

    def arm(step: str, action: Callable[[], None]) -> None:
        def reach(name: str) -> None:
            if name == step:
                monkeypatch.setattr(failpoints, "reach", lambda _name: None)
                action()

        monkeypatch.setattr(failpoints, "reach", reach)

    return arm


def rows_of(store: CassandraStore) -> Rows:
    return dict(unpacked(store.rows()))


def fold_all(store: CassandraStore) -> None:
    while store.tidy_up():
        pass


def commit_and_fold(store: CassandraStore, changes: Rows, number: int) -> None:
    store.commit([packed(changes)], checkpoint(len(ROWS), number))
    fold_all(store)


def applied(rows: Rows, changes: Rows) -> Rows:
    return {key: value for key, value in (rows | changes).items() if value}


@pytest.fixture
def store(keyspace: Keyspace) -> Iterator[CassandraStore]:
    with CassandraStore(keyspace.target) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))
        yield store


@pytest.mark.parametrize("step", STEPS)
def test_an_owner_that_dies_at_any_step_leaves_all_of_a_commit_or_nothing(
    keyspace: Keyspace,
    store: CassandraStore,
    at: Callable[[str, Callable[[], None]], None],
    step: str,
) -> None:
    def die() -> None:
        raise Step

    at(step, die)
    with pytest.raises(Step):
        commit_and_fold(store, OTHERS, 2)
    with CassandraStore(keyspace.target) as other:
        assert other.last is not None
        expected = ROWS if other.last.number == 1 else applied(ROWS, OTHERS)
        assert rows_of(other) == expected
        assert other.last.number == (1 if step in STEPS[:3] else 2)
        # What was begun and is not listed is gone.
        fold_all(other)
        other.commit([packed(THEIRS)], checkpoint(len(applied(ROWS, THEIRS)), 3))
        fold_all(other)
        assert rows_of(other) == applied(expected, THEIRS)
        assert len(partitions_of(keyspace, b"J")) <= 16 * 3


@pytest.mark.parametrize("step", STEPS)
def test_an_owner_that_stands_still_changes_nothing_after_another_one_went_on(
    keyspace: Keyspace,
    store: CassandraStore,
    at: Callable[[str, Callable[[], None]], None],
    step: str,
) -> None:
    after: list[Rows] = []

    def take_over() -> None:
        with CassandraStore(keyspace.target) as other:
            before = rows_of(other)
            expected = applied(before, THEIRS)
            other.commit([packed(THEIRS)], checkpoint(len(expected), 10))
            fold_all(other)
            assert rows_of(other) == expected
            after.append(expected)

    at(step, take_over)
    if step in STEPS[:3]:
        with pytest.raises(StoreInUse, match="claimed by another"):
            commit_and_fold(store, OTHERS, 2)
    else:
        commit_and_fold(store, OTHERS, 2)
    with pytest.raises(StoreInUse):
        store.commit([packed(OTHERS)], checkpoint(len(ROWS), 3))
    with CassandraStore(keyspace.target) as third:
        assert third.last is not None
        assert third.last.number == 10
        assert rows_of(third) == after[0]


def test_the_later_of_two_claimants_has_it(keyspace: Keyspace, store: CassandraStore) -> None:
    with CassandraStore(keyspace.target) as other:
        with pytest.raises(StoreInUse, match="two may not use one keyspace"):
            store.commit([], checkpoint(len(ROWS), 2))
        other.commit([], checkpoint(len(ROWS), 2))


def test_other_rows_after_a_journal_that_failed(
    keyspace: Keyspace, store: CassandraStore, at: Callable[[str, Callable[[], None]], None]
) -> None:
    """Its parts may be on their way still: another journal must not be mixed with them."""

    def fail() -> None:
        raise StoreError("the node is busy")

    at("cassandra.journal_written", fail)
    with pytest.raises(StoreError, match="busy"):
        store.commit([packed(OTHERS)], checkpoint(len(ROWS), 2))
    changes = dict.fromkeys(list(ROWS)[:10], b"later")
    store.commit([packed(changes)], checkpoint(len(ROWS), 2))
    with CassandraStore(keyspace.target) as other:
        assert rows_of(other) == applied(ROWS, changes)


def test_an_answer_that_does_not_come(
    cassandra_node: CassandraNode,
    keyspace: Keyspace,
    at: Callable[[str, Callable[[], None]], None],
) -> None:
    """The node stands still with the commit in its socket, and works it off later."""
    target = replace(keyspace.target, timeout_s=0.5)
    with CassandraStore(target) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))

        def pause() -> None:
            cassandra_node.stop_for_a_while()
            threading.Timer(1.2, cassandra_node.go_on).start()

        at("cassandra.before_record", pause)
        failures = 0
        while True:
            try:
                store.commit([packed(OTHERS)], checkpoint(len(ROWS), 2))
                break
            except StoreError:
                failures += 1
                assert failures < 20
        assert rows_of(store) == applied(ROWS, OTHERS)
        store.commit([packed(THEIRS)], checkpoint(len(applied(ROWS, THEIRS)), 3))
        expected = applied(applied(ROWS, OTHERS), THEIRS)
        assert rows_of(store) == expected
    with CassandraStore(keyspace.target) as other:
        assert rows_of(other) == expected


def test_one_user_with_a_million_alarms(keyspace: Keyspace, store: CassandraStore) -> None:
    """All his rows lie in one shard, and change at once; then they go."""
    many = {key_of("one", block): b"x" * 3900 for block in range(28_000)}
    store.commit([packed(many)], checkpoint(len(ROWS) + len(many), 2))
    fold_all(store)
    with CassandraStore(keyspace.target) as other:
        assert rows_of(other) == ROWS | many
        other.commit([packed(dict.fromkeys(many, b""))], checkpoint(len(ROWS), 3))
        assert other.wants_all_rows, "so many tombstones in one shard"
        fold_all(other)
        other.commit_all([packed(ROWS)], checkpoint(len(ROWS), 4))
        assert not other.wants_all_rows
        fold_all(other)
        assert rows_of(other) == ROWS
        assert {p[1:5] for p in partitions_of(keyspace, b"H")} == {(1).to_bytes(4, "big")}
    with CassandraStore(keyspace.target) as third:
        assert rows_of(third) == ROWS


@pytest.mark.parametrize("folded", [False, True])
def test_commits_that_the_cluster_has_lost(
    keyspace: Keyspace, store: CassandraStore, folded: bool
) -> None:
    """As a node does that crashes before its commit log is on the disk: the record is an older
    one. Everything is written anew then, and nothing of the old comes back."""
    old = record_of(keyspace)
    store.commit([packed(OTHERS)], checkpoint(len(ROWS), 2))
    if folded:
        fold_all(store)
    put_record_back(keyspace, old)
    with pytest.raises(AllRowsNeeded, match="lost what it had confirmed"):
        store.commit([packed(THEIRS)], checkpoint(len(applied(ROWS, THEIRS)), 3))
    assert store.wants_all_rows
    with pytest.raises(AllRowsNeeded):
        store.commit([packed(THEIRS)], checkpoint(len(applied(ROWS, THEIRS)), 3))
    everything = applied(applied(ROWS, OTHERS), THEIRS)
    store.commit_all([packed(everything)], checkpoint(len(everything), 4))
    assert rows_of(store) == everything
    fold_all(store)
    changes = dict.fromkeys(list(everything)[:20], b"afterwards")
    store.commit([packed(changes)], checkpoint(len(everything), 5))
    with CassandraStore(keyspace.target) as other:
        assert rows_of(other) == applied(everything, changes)
