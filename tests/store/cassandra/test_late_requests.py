"""Requests that arrive late, after their own retry or after another owner, and answers that never
come: held back by a proxy between the owner and a real node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from store.cassandra import wrong_stores
from store.cassandra.scenarios import (
    BEFORE_THE_RECORD,
    OTHERS,
    ROWS,
    THEIRS,
    applied,
    at,
    commit_and_fold,
    fold_all,
    rows_of,
)
from support.cassandra_node import CassandraNode
from support.keyspaces import Keyspace, claimed
from support.proxy import Proxy
from support.rows import checkpoint, packed
from support.wait import eventually

from alarmdigest.store import StoreError, StoreInUse
from alarmdigest.store.cassandra.store import CassandraStore

pytestmark = pytest.mark.cassandra

TIMEOUT_S = 0.5


@pytest.fixture
def proxy(cassandra_node: CassandraNode) -> Iterator[Proxy]:
    with Proxy(cassandra_node.port) as proxy:
        yield proxy


def through(proxy: Proxy, keyspace: Keyspace) -> Keyspace:
    hosts = (("127.0.0.1", proxy.port),)
    return Keyspace(replace(keyspace.target, hosts=hosts, timeout_s=TIMEOUT_S))


def hold_back(
    store: CassandraStore, proxy: Proxy, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit of OTHERS whose requests from this step on do not reach the node."""
    commit_and_fold(store, ROWS, 1)
    at(step, lambda: proxy.stall("to server"), monkeypatch)
    with pytest.raises(StoreError, match="no answer in time"):
        commit_and_fold(store, OTHERS, 2)
    proxy.strand()
    proxy.resume()


def goes_on(store: CassandraStore) -> bool:
    """With the same commit, until the driver has found the node again."""
    try:
        if store.last is None or store.last.number < 2:
            store.commit([packed(OTHERS)], checkpoint(len(ROWS), 2))
        fold_all(store)
    except StoreError:
        return False
    return True


def is_refused(store: CassandraStore) -> bool:
    try:
        store.commit([], checkpoint(len(ROWS), 5))
    except StoreInUse:
        return True
    except StoreError:
        return False
    raise AssertionError("a stale owner has committed")


def after_its_own_retry(
    kind: type[CassandraStore],
    keyspace: Keyspace,
    proxy: Proxy,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = applied(applied(ROWS, OTHERS), THEIRS)
    with claimed(through(proxy, keyspace).target, kind) as store:
        hold_back(store, proxy, step, monkeypatch)
        eventually(lambda: goes_on(store), timeout=20, interval=0.1, what="the node to be back")
        commit_and_fold(store, THEIRS, 3, of=len(expected))
        proxy.release()
        assert rows_of(store) == expected
    with claimed(keyspace.target) as other:
        assert other.last is not None
        assert other.last.number == 3
        assert rows_of(other) == expected


def after_another_owner(
    kind: type[CassandraStore],
    keyspace: Keyspace,
    proxy: Proxy,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with claimed(through(proxy, keyspace).target, kind) as store:
        hold_back(store, proxy, step, monkeypatch)
        with claimed(keyspace.target) as other:
            assert other.last is not None
            assert other.last.number == (1 if step in BEFORE_THE_RECORD else 2)
            expected = applied(rows_of(other), THEIRS)
            commit_and_fold(other, THEIRS, 3, of=len(expected))
            proxy.release()
            assert rows_of(other) == expected
            other.commit([packed({})], checkpoint(len(expected), 4))
        eventually(
            lambda: is_refused(store), timeout=20, interval=0.1, what="the first one to be refused"
        )
    with claimed(keyspace.target) as third:
        assert rows_of(third) == expected


HELD = ("cassandra.in_journal", "cassandra.before_record", "cassandra.in_fold")
"""What is held then: the rest of a journal, the record, the rest of the rows."""


@pytest.mark.parametrize("step", HELD)
def test_a_request_that_arrives_after_its_retry(
    keyspace: Keyspace, proxy: Proxy, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_its_own_retry(CassandraStore, keyspace, proxy, step, monkeypatch)


@pytest.mark.parametrize("step", HELD)
def test_a_request_that_arrives_after_another_owner(
    keyspace: Keyspace, proxy: Proxy, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_another_owner(CassandraStore, keyspace, proxy, step, monkeypatch)


def test_commits_that_do_not_name_the_one_before(
    keyspace: Keyspace, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, step = wrong_stores.AnyCommitOfTheOwner, "cassandra.before_record"
    with pytest.raises((AssertionError, StoreError)):
        after_its_own_retry(kind, keyspace, proxy, step, monkeypatch)


def test_without_the_timestamps_of_commits(
    keyspace: Keyspace, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, step = wrong_stores.NoTimestamps, "cassandra.in_fold"
    with pytest.raises((AssertionError, StoreError)):
        after_another_owner(kind, keyspace, proxy, step, monkeypatch)


@pytest.mark.parametrize("step", HELD)
def test_an_answer_that_never_comes(
    keyspace: Keyspace, proxy: Proxy, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked has happened: the same commit again finds that out."""
    with claimed(through(proxy, keyspace).target) as store:
        commit_and_fold(store, ROWS, 1)
        at(step, lambda: proxy.stall("to client"), monkeypatch)
        with pytest.raises(StoreError, match="no answer in time"):
            commit_and_fold(store, OTHERS, 2)
        proxy.cut()
        proxy.resume()
        eventually(lambda: goes_on(store), timeout=20, interval=0.1, what="the node to be back")
        assert rows_of(store) == applied(ROWS, OTHERS)
    with claimed(keyspace.target) as other:
        assert rows_of(other) == applied(ROWS, OTHERS)
