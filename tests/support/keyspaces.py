"""A keyspace of its own for each test: nothing is ever truncated, since Paxos brings rows back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from alarmdigest.store import StoreError
from alarmdigest.store.cassandra.database import Database
from alarmdigest.store.cassandra.store import CassandraStore
from alarmdigest.store.cassandra.target import Target
from support.cassandra_node import CassandraNode
from support.wait import eventually

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Keyspace:
    target: Target

    @property
    def options(self) -> list[str]:
        """Those of the service."""
        hosts = [f"--cassandra={host}:{port}" for host, port in self.target.hosts]
        return ["--store=cassandra", *hosts, f"--cassandra-keyspace={self.target.keyspace}"]


def new_keyspace(
    *nodes: CassandraNode, timeout_s: float = 5.0, base: Target | None = None
) -> Keyspace:
    """``base`` says how to get in, where that takes more than an address."""
    hosts = tuple((node.host, node.port) for node in nodes)
    name = f"test_{next(_numbers)}"
    base = base or Target(hosts, "system", timeout_s=timeout_s)
    database = eventually(lambda: _let_in(base), timeout=60, interval=0.5, what="to be let in")
    assert database is not None
    try:
        database.execute_schema(
            f"CREATE KEYSPACE {name} WITH replication = "
            f"{{'class': 'NetworkTopologyStrategy', '{database.datacenter}': {len(nodes)}}}"
        )
    finally:
        database.close()
    return Keyspace(replace(base, keyspace=name))


def _let_in(target: Target) -> Database | None:
    """A node makes its first user only some seconds after its start."""
    try:
        return Database(target)
    except StoreError:
        return None


def claimed(target: Target, kind: type[CassandraStore] = CassandraStore) -> CassandraStore:
    store = kind(target)
    try:
        store.claim()
    except BaseException:
        store.close()
        raise
    return store


def partitions_of(keyspace: Keyspace, begin: bytes) -> set[bytes]:
    """The keys of partitions that begin so: H for rows at home, J for journals."""
    rows = run_cql(keyspace, "SELECT DISTINCT p FROM {table}")
    return {row.p for row in rows if row.p.startswith(begin)}


def record_of(keyspace: Keyspace) -> Any:
    [row] = run_cql(keyspace, "SELECT * FROM {table} WHERE p = ?", b"R")
    return row


def put_record_back(keyspace: Keyspace, row: Any) -> None:
    """What a lost tail leaves: an older record. By a conditional write, as all that touch it."""
    now = record_of(keyspace)
    run_cql(
        keyspace,
        "UPDATE {table} SET owner = ?, commit_id = ?, prior = ?, head = ? WHERE p = ? AND k = ? "
        "IF owner = ?",
        *(row.owner, row.commit_id, row.prior, row.head, b"R", b"", now.owner),
    )


def run_cql(keyspace: Keyspace, cql: str, *values: object) -> list[Any]:
    database = Database(keyspace.target)
    try:
        return database.execute(
            cql.replace("{table}", f"{keyspace.target.keyspace}.state"), *values
        )
    finally:
        database.close()
