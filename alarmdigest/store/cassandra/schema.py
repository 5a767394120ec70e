"""The one table, and the keys of its partitions.

Everything lies in one table, since tables are flushed one by one: after a crash that takes the end
of the commit log, several would be of different times.

    p                            k              v
    R                            empty          the record, in its columns owner, term, commit_id,
                                                prior and head: what is valid
    H | epoch u64 | shard u8     a row's key    the row's value with its seal
    J | owner 16 | n u64 | lane  part u32       a part of a journal: packed rows

Numbers in keys are big-endian. A shard is a row's bucket divided by 16, so that the rows of shard
after shard are in the order of their keys.
"""

from __future__ import annotations

import struct
from uuid import UUID, uuid5

from alarmdigest.wire.buckets import BUCKETS

TABLE = "state"
NAMESPACE = UUID("5d0b1a5c-0f0e-4d0e-9a54-0d6b8a2f7c11")
SHARDS = 256
LANES = 16
"""The partitions of a large journal."""

RECORD = b"R"
RECORD_KEY = b""


def keyspace_cql(keyspace: str, datacenter: str, replication_factor: int) -> str:
    return (
        f'CREATE KEYSPACE IF NOT EXISTS "{keyspace}" WITH replication = '
        f"{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replication_factor}}}"
    )


def table_cql(keyspace: str) -> str:
    """``gc_grace_seconds`` must not be less than it is by default, ten days: after that a write
    that was delayed may bring back what was deleted. The id is the same whoever makes the table:
    replicas that start at once would make two of one name, and lose what is in one of them."""
    table_id = uuid5(NAMESPACE, keyspace)
    return (
        f'CREATE TABLE IF NOT EXISTS "{keyspace}".{TABLE} (\n'
        "  p blob, k blob, v blob,\n"
        "  owner uuid, term varint, commit_id uuid, prior blob, head blob,\n"
        "  PRIMARY KEY ((p), k)\n"
        f") WITH ID = {table_id} AND comment = 'alarmdigest: the state of all alarms'"
    )


def shard_of(key: bytes) -> int:
    """The shard of a row, from the bucket that its key begins with."""
    return (key[0] << 8 | key[1]) * SHARDS // BUCKETS


def home(epoch: int, shard: int) -> bytes:
    return b"H" + struct.pack(">QB", epoch, shard)


def journal(owner: UUID, number: int, lane: int) -> bytes:
    return b"J" + owner.bytes + struct.pack(">QB", number, lane)


def part_key(part: int) -> bytes:
    return struct.pack(">I", part)
