"""Whether a keyspace will do: it has our table, and its nodes take writes as large as ours."""

from __future__ import annotations

import logging
import time
from uuid import uuid4

from alarmdigest.store.base import NoState, StoreError
from alarmdigest.store.cassandra.database import Database
from alarmdigest.store.cassandra.journals import PART_BYTES, Journals
from alarmdigest.store.cassandra.schema import RECORD, TABLE, table_cql

log = logging.getLogger(__name__)

MADE_WITHIN_S = 10.0
COLUMNS = {"p", "k", "v", "owner", "term", "commit_id", "prior", "head"}


def require_table(database: Database, *, make: bool) -> None:
    """Make the table if there is none and we are to. Raises StoreError."""
    keyspace = database.target.keyspace
    columns = database.columns_of(TABLE)
    if columns is None:
        raise StoreError(
            f"there is no keyspace {keyspace} on {database.hosts_text}: how often it is replicated "
            f"is yours to say; `alarmdigest schema --cassandra-keyspace {keyspace}` prints the CQL "
            "that makes it"
        )
    if not columns and not make:
        raise NoState(f"there is no state in {database.where}: is the keyspace right?")
    if columns and not columns >= COLUMNS:
        raise StoreError(
            f"the table {TABLE} in {database.where} is not one of alarmdigest's: it lacks "
            f"{', '.join(sorted(COLUMNS - columns))}; choose another keyspace"
        )
    _require_one_datacenter(database)
    _wait_for_table(database, make=not columns)


def _require_one_datacenter(database: Database) -> None:
    """Conditional writes of two data centres know nothing of each other. Raises StoreError."""
    target, there = database.target, database.datacenters_of_keyspace()
    if len(there) > 1 and target.consistency.startswith("LOCAL_") and not target.datacenter:
        raise StoreError(
            f"{database.where} is replicated in the data centres {', '.join(there)}: say which one "
            "is meant, the same for all instances (--cassandra-datacenter), or "
            "--cassandra-consistency QUORUM"
        )


def _wait_for_table(database: Database, *, make: bool) -> None:
    """Until it can be used: another replica may be making it just now. Raises StoreError."""
    keyspace, deadline = database.target.keyspace, time.monotonic() + MADE_WITHIN_S
    while True:
        try:
            if make:
                database.execute_schema(table_cql(keyspace))
            # One partition: others may hold ten days of deletions.
            key = f"0x{RECORD.hex()}"
            database.execute_schema(f'SELECT p FROM "{keyspace}".{TABLE} WHERE p = {key} LIMIT 1')
            return
        except StoreError as error:
            if time.monotonic() > deadline or "a permission is missing" in str(error):
                raise
        time.sleep(0.2)


def try_large_write(journals: Journals) -> None:
    """Write a part of a journal as large as they get, which nobody reads, and delete it. Raises
    StoreError where a node refuses it."""
    owner = uuid4()
    journals.write_part(owner, bytes(PART_BYTES))
    journals.delete_begun([(owner, 0)])


def warn_of_periodic_commit_log(database: Database) -> None:
    """A node that syncs only now and then loses the last seconds in a crash."""
    sync = database.setting_of_a_node("commitlog_sync")
    if not sync:
        log.info("we may not see the commitlog_sync of the nodes: it should be group or batch")
    if sync == "periodic":
        log.warning(
            "a node of %s has commitlog_sync: periodic, so a crash of several nodes at once, or of "
            "the only one, loses what it confirmed in the last ten seconds: set it to group or "
            "batch",
            database.where,
        )
