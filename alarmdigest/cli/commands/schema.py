"""The command ``schema``: what Cassandra needs to keep the state, as CQL."""

from __future__ import annotations

from alarmdigest.cli.terminal import write_line
from alarmdigest.runtime import exit_codes
from alarmdigest.settings import Settings
from alarmdigest.store.cassandra.schema import keyspace_cql, table_cql


def schema(settings: Settings, *, replication_factor: int) -> int:
    """Print it; the exit code."""
    datacenter = settings.cassandra_datacenter
    if not datacenter:
        datacenter = "datacenter1"
        write_line(
            f"-- {datacenter} is what a new cluster calls its data centre; nodetool status tells "
            "yours, for --cassandra-datacenter"
        )
    write_line(keyspace_cql(settings.cassandra_keyspace, datacenter, replication_factor) + ";")
    write_line(table_cql(settings.cassandra_keyspace) + ";")
    return exit_codes.CLEAN
