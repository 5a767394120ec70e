"""A Cassandra of one node for all tests of a process that ask for one, with a keyspace for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cassandra_node import CassandraNode
from support.keyspaces import Keyspace, new_keyspace


@pytest.fixture(scope="session")
def cassandra_node() -> Iterator[CassandraNode]:
    with CassandraNode() as node:
        yield node


@pytest.fixture
def keyspace(cassandra_node: CassandraNode) -> Keyspace:
    return new_keyspace(cassandra_node)
