"""One commit is atomic, and nobody but the owner can change anything, at whatever step he stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cassandra import OperationTimedOut, protocol
from store.cassandra import wrong_stores
from store.cassandra.scenarios import (
    OTHERS,
    ROWS,
    STEPS,
    THEIRS,
    applied,
    at,
    begins_another_journal,
    commit_and_fold,
    dies,
    fold_all,
    rows_of,
    stands_still,
)
from support.cassandra_node import CassandraNode
from support.keyspaces import Keyspace, claimed, partitions_of, put_record_back, record_of
from support.rows import checkpoint, key_of, packed

from alarmdigest.store import AllRowsNeeded, StoreError, StoreInUse
from alarmdigest.store.cassandra.database import Database, Errors
from alarmdigest.store.cassandra.store import CassandraStore

pytestmark = pytest.mark.cassandra


@pytest.fixture
def store(keyspace: Keyspace) -> Iterator[CassandraStore]:
    with claimed(keyspace.target) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))
        yield store


@pytest.mark.parametrize("step", STEPS)
def test_an_owner_that_dies_at_any_step(
    keyspace: Keyspace, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(CassandraStore, keyspace, step, monkeypatch)


@pytest.mark.parametrize("step", STEPS)
def test_an_owner_that_stands_still_at_any_step(
    keyspace: Keyspace, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands_still(CassandraStore, keyspace, step, monkeypatch)


def test_other_rows_after_a_journal_that_failed(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins_another_journal(CassandraStore, keyspace, monkeypatch)


def test_without_the_fence(keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        stands_still(wrong_stores.NoFence, keyspace, "cassandra.before_record", monkeypatch)


def test_without_the_timestamps_of_commits(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((AssertionError, StoreError)):
        stands_still(wrong_stores.NoTimestamps, keyspace, "cassandra.after_record", monkeypatch)


def test_folding_before_the_record(keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, StoreError)):
        dies(wrong_stores.FoldedBeforeTheRecord, keyspace, "cassandra.before_record", monkeypatch)


def test_deleting_journals_at_once(keyspace: Keyspace) -> None:
    with pytest.raises(StoreError, match="of journal 2 it holds 0 parts"):
        folds_and_dies(wrong_stores.JournalsDeletedAtOnce, keyspace)


def test_using_journal_numbers_twice(keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="of journal 2"):
        begins_another_journal(wrong_stores.JournalNumbersUsedTwice, keyspace, monkeypatch)


def folds_and_dies(kind: type[CassandraStore], keyspace: Keyspace) -> None:
    """With everything folded, before a record says so."""
    with claimed(keyspace.target, kind) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))
        fold_all(store)
        store.commit([packed(OTHERS)], checkpoint(len(ROWS), 2))
        fold_all(store)
    with claimed(keyspace.target) as other:
        assert rows_of(other) == applied(ROWS, OTHERS)


def test_the_later_of_two_claimants_has_it(keyspace: Keyspace, store: CassandraStore) -> None:
    with claimed(keyspace.target) as other:
        with pytest.raises(StoreInUse, match="two may not use one keyspace"):
            store.commit([], checkpoint(len(ROWS), 2))
        other.commit([], checkpoint(len(ROWS), 2))


def test_an_answer_that_does_not_come(
    cassandra_node: CassandraNode, keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node stands still with the commit in its socket, and works it off later."""
    target = replace(keyspace.target, timeout_s=0.5)
    with claimed(target) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))

        def pause() -> None:
            cassandra_node.stop_for_a_while()
            threading.Timer(1.2, cassandra_node.go_on).start()

        at("cassandra.before_record", pause, monkeypatch)
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
    with claimed(keyspace.target) as other:
        assert rows_of(other) == expected


def test_one_user_with_a_million_alarms(keyspace: Keyspace, store: CassandraStore) -> None:
    """All his rows lie in one shard, and change at once; then they go."""
    many = {key_of("one", block): b"x" * 3900 for block in range(28_000)}
    store.commit([packed(many)], checkpoint(len(ROWS) + len(many), 2))
    fold_all(store)
    with claimed(keyspace.target) as other:
        assert rows_of(other) == ROWS | many
        other.commit([packed(dict.fromkeys(many, b""))], checkpoint(len(ROWS), 3))
        assert other.wants_all_rows, "so many tombstones in one shard"
        fold_all(other)
        other.commit_all([packed(ROWS)], checkpoint(len(ROWS), 4))
        assert not other.wants_all_rows
        fold_all(other)
        assert rows_of(other) == ROWS
        # The partitions of the epoch before are gone, with their tombstones.
        assert len({p[1:9] for p in partitions_of(keyspace, b"H")}) == 1
    with claimed(keyspace.target) as third:
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
    with claimed(keyspace.target) as other:
        assert rows_of(other) == applied(everything, changes)


def test_who_loads_while_another_one_takes_over(keyspace: Keyspace) -> None:
    """He meets newer rows than his own, and must not take the store for damaged."""
    with claimed(keyspace.target) as store:
        commit_and_fold(store, ROWS, 1)
    with claimed(keyspace.target) as loading:
        with claimed(keyspace.target) as other:
            commit_and_fold(other, OTHERS, 2)
        with pytest.raises(StoreInUse, match="claimed by another"):
            rows_of(loading)


def test_commits_that_were_lost_before_a_new_term(keyspace: Keyspace) -> None:
    """A renewal of the claim must notice them as well as a commit does."""
    leader = CassandraStore(keyspace.target, term=5)
    with leader as store:
        store.claim()
        store.commit_all([packed(ROWS)], checkpoint(len(ROWS), 1))
        old = record_of(keyspace)
        store.commit([packed(OTHERS)], checkpoint(len(ROWS), 2))
        put_record_back(keyspace, old)
        with pytest.raises(AllRowsNeeded, match="lost what it had confirmed"):
            store.raise_term(6)
        assert store.wants_all_rows
        store.raise_term(6)
        with pytest.raises(AllRowsNeeded):
            store.commit([packed(THEIRS)], checkpoint(len(applied(ROWS, THEIRS)), 3))
        everything = applied(ROWS, OTHERS)
        store.commit_all([packed(everything)], checkpoint(len(everything), 3))
        assert rows_of(store) == everything
        fold_all(store)
        # Neither is the journal left over that only the lost commit knew of.
        head = store._head
        listed = {(one.owner_id.bytes, one.number) for one in (*head.folded, *head.journals)}
        left = {(p[1:17], int.from_bytes(p[17:25], "big")) for p in partitions_of(keyspace, b"J")}
        assert left <= listed


def test_journals_go_also_where_there_is_always_something_to_fold(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alarmdigest.store.cassandra.store.KEEP_FOLDED_S", 0.0)
    with claimed(keyspace.target) as store:
        for number in range(1, 80):
            rows = dict.fromkeys(list(ROWS)[:3], b"%d" % number)
            store.commit([packed(rows)], checkpoint(3, number))
            for _ in range(3 if number > 2 else 0):  # what is left over is always something
                store.tidy_up()
                if sum(not one.done for one in store._unfolded) <= 1:
                    break
        assert len(partitions_of(keyspace, b"J")) < 40
        assert len(store._head.folded) < 40


def test_every_answer_of_a_server_is_an_error_that_we_know() -> None:
    """Those that the driver has no exception for come out as they are."""
    known = 0
    for kind in vars(protocol).values():
        if isinstance(kind, type) and issubclass(kind, protocol.ErrorMessage):
            try:
                raised = kind(code=0, message="", info={}).to_exception()
            except (KeyError, TypeError):
                continue  # it makes an exception of the driver's own from what stands in it
            assert isinstance(raised, Errors), kind
            known += 1
    assert known >= 10


def test_a_keyspace_in_several_data_centres(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owners of two data centres would not know of each other. (One node has one of them.)"""
    monkeypatch.setattr(Database, "datacenters_of_keyspace", lambda _self: ["a", "datacenter1"])
    with pytest.raises(StoreError, match=r"data centres a, datacenter1: say which one"):
        CassandraStore(keyspace.target)
    CassandraStore(replace(keyspace.target, datacenter="datacenter1")).close()
    CassandraStore(replace(keyspace.target, consistency="QUORUM")).close()


@pytest.mark.usefixtures("store")
def test_a_claim_without_an_answer_is_made_again_under_another_id(
    keyspace: Keyspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who had claimed in between would take it for a claim that the cluster has lost."""
    execute_once = Database.execute_once
    between: list[CassandraStore] = []

    def lose_answer(database: Database, cql: str, *values: object) -> list[Any]:
        monkeypatch.setattr(Database, "execute_once", execute_once)
        execute_once(database, cql, *values)
        between.append(claimed(keyspace.target))
        raise OperationTimedOut

    monkeypatch.setattr(Database, "execute_once", lose_answer)
    with claimed(keyspace.target) as last, between[0] as other:
        with pytest.raises(StoreInUse, match="claimed by another"):
            other.commit([packed(THEIRS)], checkpoint(len(applied(ROWS, THEIRS)), 2))
        last.commit([packed(THEIRS)], checkpoint(len(applied(ROWS, THEIRS)), 2))
        assert rows_of(last) == applied(ROWS, THEIRS)
