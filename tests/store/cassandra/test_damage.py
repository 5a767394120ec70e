"""What is not as it was written is found, at the latest behind the last row, and says so."""

from __future__ import annotations

import json

import pytest
from support.keyspaces import Keyspace, claimed, record_of, run_cql
from support.rows import checkpoint, packed, some_rows

from alarmdigest.store import StoreDamaged, StoreError, StoreTooNew
from alarmdigest.store.cassandra.reader import CassandraReader

pytestmark = pytest.mark.cassandra

ROWS = some_rows(300)


@pytest.fixture(params=["folded", "in a journal"])
def written(request: pytest.FixtureRequest, keyspace: Keyspace) -> Keyspace:
    with claimed(keyspace.target) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))
        while request.param == "folded" and store.tidy_up():
            pass
        if request.param == "folded":  # from now on the record knows that it is
            store.commit([], checkpoint(len(ROWS), 2))
    return keyspace


def read(keyspace: Keyspace) -> None:
    with claimed(keyspace.target) as store:
        for _ in store.rows():
            pass


def test_a_row_of_a_later_commit_where_nobody_claims(keyspace: Keyspace) -> None:
    """A reader, and so a replica of a group, notices it as well."""
    with claimed(keyspace.target) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))
        while store.tidy_up():
            pass
        p, k, v = some_row(keyspace)
        with CassandraReader(keyspace.target) as reader:
            assert sum(map(len, reader.rows())) > 0
        run_cql(keyspace, "INSERT INTO {table} (p, k, v) VALUES (?, ?, ?)", p, k, v)
        with (
            CassandraReader(keyspace.target) as reader,
            pytest.raises(StoreDamaged, match="does not know"),
        ):
            list(reader.rows())


def some_row(keyspace: Keyspace) -> tuple[bytes, bytes, bytes]:
    rows = run_cql(keyspace, "SELECT p, k, v FROM {table}")
    found = sorted((row.p, row.k, row.v) for row in rows if row.v is not None)
    folded = [row for row in found if row[0].startswith(b"H")]
    return (folded or found)[0]


def test_a_row_that_is_gone(written: Keyspace) -> None:
    p, k, _ = some_row(written)
    run_cql(written, "DELETE FROM {table} WHERE p = ? AND k = ?", p, k)
    with pytest.raises(StoreDamaged, match="damaged"):
        read(written)


def test_a_changed_row(written: Keyspace) -> None:
    p, k, v = some_row(written)
    changed = bytes([v[0] ^ 1]) + v[1:]
    [row] = run_cql(written, "SELECT writetime(v) AS t FROM {table} WHERE p = ? AND k = ?", p, k)
    cql = "DELETE FROM {table} USING TIMESTAMP ? WHERE p = ? AND k = ?"
    run_cql(written, cql, row.t, p, k)
    cql = "INSERT INTO {table} (p, k, v) VALUES (?, ?, ?) USING TIMESTAMP ?"
    run_cql(written, cql, p, k, changed, row.t + 1)
    with pytest.raises(StoreDamaged, match="damaged"):
        read(written)


@pytest.mark.parametrize("written", ["folded"], indirect=True)
def test_a_row_of_a_commit_that_the_record_does_not_know(written: Keyspace) -> None:
    p, k, v = some_row(written)
    run_cql(written, "INSERT INTO {table} (p, k, v) VALUES (?, ?, ?)", p, k, v)
    with pytest.raises(StoreDamaged, match="does not know"):
        read(written)


@pytest.mark.parametrize(
    ("head", "error", "text"),
    [
        (b"nonsense", StoreDamaged, "cannot be understood"),
        (b"{}", StoreDamaged, "cannot be understood"),
        (b'{"format": 2}', StoreTooNew, "newer alarmdigest"),
    ],
)
def test_a_record_that_is_none(
    keyspace: Keyspace, head: bytes, error: type[StoreError], text: str
) -> None:
    with claimed(keyspace.target) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))
    change_head(keyspace, head)
    with pytest.raises(error, match=text):
        read(keyspace)


def test_a_checkpoint_that_was_changed(keyspace: Keyspace) -> None:
    with claimed(keyspace.target) as store:
        store.commit([packed(ROWS)], checkpoint(len(ROWS), 1))
    head = json.loads(record_of(keyspace).head)
    head["checkpoint"] = head["checkpoint"].replace("ALARMS", "OTHERS")
    change_head(keyspace, json.dumps(head).encode())
    with pytest.raises(StoreDamaged, match="checksum"):
        read(keyspace)


def change_head(keyspace: Keyspace, head: bytes) -> None:
    owner = record_of(keyspace).owner
    cql = "UPDATE {table} SET head = ? WHERE p = ? AND k = ? IF owner = ?"
    run_cql(keyspace, cql, head, b"R", b"", owner)
