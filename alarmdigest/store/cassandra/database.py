"""Requests to the cluster: with the consistency that the store stands on, and errors in words.

Of the driver's own ways those are off that may do a write twice or with less than was asked for:
it neither retries nor speculates, since only the store knows what may be done again. Nagle's
algorithm, which it leaves on, made 65 ms of a batch of 20.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.store.base import StoreAway, StoreError
from alarmdigest.store.cassandra.target import Target

try:
    from cassandra import (
        AuthenticationFailed,
        ConsistencyLevel,
        DriverException,
        InvalidRequest,
        OperationTimedOut,
        Unauthorized,
        UnresolvableContactPoints,
    )
    from cassandra.auth import PlainTextAuthProvider
    from cassandra.cluster import (
        EXEC_PROFILE_DEFAULT,
        Cluster,
        ExecutionProfile,
        NoHostAvailable,
        Session,
    )
    from cassandra.concurrent import execute_concurrent
    from cassandra.connection import ConnectionBusy, ConnectionException, ProtocolError
    from cassandra.policies import (
        ConstantReconnectionPolicy,
        DCAwareRoundRobinPolicy,
        FallthroughRetryPolicy,
        TokenAwarePolicy,
    )
    from cassandra.pool import NoConnectionsAvailable
    from cassandra.protocol import ErrorMessage
    from cassandra.query import SimpleStatement
except ImportError as error:  # an extra
    raise StoreError(
        f"--store cassandra needs the package cassandra-driver ({error}): "
        "pip install 'alarmdigest[cassandra]'"
    ) from error

log = logging.getLogger(__name__)

# It has a word for each node that comes and goes, and tracebacks for what we report ourselves.
logging.getLogger("cassandra").setLevel(logging.CRITICAL)

PAGE_ROWS = 500
AT_ONCE = 8
"""Writes under way at a time. The driver begins so many in one go, without letting other threads
run: 32 of them held these up for 20 ms, 8 do for 10, and are hardly slower."""
ATTEMPTS = 4
PAUSE_S = 0.2
RECONNECT_S = 1.0

Statement = Any  # of the driver, which has no types
# Some answers of a server come out as the driver's messages (ErrorMessage): that a node is
# overloaded, or does not know a table yet, or anything that the driver has no class for, as the
# unknown outcome of a conditional write. And not all that goes wrong in the driver is a
# DriverException.
Errors = (
    *(DriverException, NoHostAvailable, ErrorMessage),
    *(ConnectionException, ConnectionBusy, ProtocolError, NoConnectionsAvailable),
)


class Database:
    """A connection to one keyspace. Raises StoreError from its constructor and everywhere."""

    def __init__(self, target: Target, *, go_on: Callable[[], bool] = lambda: True) -> None:
        """A cluster that is away is waited for as the target says, while ``go_on()``."""
        self.target = target
        self.trouble = ""
        """Why the last request was not answered as it should; empty where it was."""
        self._tell_trouble = LimitedLog(log, logging.WARNING, interval_s=60.0)
        self._go_on = go_on
        serial = target.consistency.startswith("LOCAL_")
        self._consistency = ConsistencyLevel.name_to_value[target.consistency]
        self._serial = ConsistencyLevel.LOCAL_SERIAL if serial else ConsistencyLevel.SERIAL
        self._cluster, self._session = self._connect()
        self._prepared: dict[str, Statement] = {}

    @property
    def where(self) -> str:
        return str(self.target)

    @property
    def hosts_text(self) -> str:
        return self.target.hosts_text

    def close(self) -> None:
        self._cluster.shutdown()

    def execute(self, cql: str, *values: object) -> list[Any]:
        """The rows of the answer, all of them."""
        with self.errors_in_words():
            return list(self._session.execute(self._bound(cql, values)))

    def execute_once(self, cql: str, *values: object) -> list[Any]:
        """For a conditional write: what the driver raises comes out as it is, since nothing is
        known then."""
        try:
            rows = list(self._session.execute(self._bound(cql, values)))
        except Errors as error:
            self._note_trouble(error)
            raise
        self.trouble = ""
        return rows

    def read_serially(self, cql: str, *values: object) -> list[Any]:
        """What every conditional write that was answered has left."""
        statement = self._bound(cql, values)
        statement.consistency_level = self._serial
        with self.errors_in_words():
            return list(self._session.execute(statement))

    def execute_schema(self, cql: str) -> None:
        with self.errors_in_words():
            self._session.execute(SimpleStatement(cql), timeout=60.0)

    def execute_all(
        self, requests: Iterable[tuple[Statement, Sequence[object]]], *, at_once: int = AT_ONCE
    ) -> list[list[Any]]:
        """Many requests that may be done twice: the rows of each. What fails is tried again a few
        times, slower; a node that is busy says so and means it."""
        asked = list(requests)
        answers: list[list[Any]] = [[] for _ in asked]
        left = list(range(len(asked)))
        for attempt in range(1, ATTEMPTS + 1):
            with self.errors_in_words():
                found = execute_concurrent(
                    self._session,
                    [asked[number] for number in left],
                    concurrency=max(1, at_once >> (attempt - 1)),
                    raise_on_first_error=False,
                )
                failed = []
                error: Exception | None = None
                for number, (done, answer) in zip(left, found, strict=True):
                    try:
                        if not done:
                            raise answer
                        answers[number] = list(answer)  # further pages, too
                    except Errors as failure:
                        failed.append(number)
                        if not isinstance(error, (InvalidRequest, Unauthorized)):
                            error = failure
                if not failed:
                    self.trouble = ""
                    return answers
                assert error is not None
                self._note_trouble(error)
                if attempt == ATTEMPTS or isinstance(error, (InvalidRequest, Unauthorized)):
                    raise error
            left = failed
            time.sleep(PAUSE_S * attempt)
        raise AssertionError

    def _note_trouble(self, error: Exception) -> None:
        if not self.trouble:
            self._tell_trouble("no good answer of Cassandra, trying again", reason=in_words(error))
        self.trouble = in_words(error)

    def execute_in_windows(
        self, requests: Iterable[tuple[Statement, Sequence[object]]], size: int
    ) -> Iterator[None]:
        """As ``execute_all``, so many at a time, with a step between: in the middle of the last
        window, too."""
        left = iter(requests)
        window = list(islice(left, size))
        while window:
            following = list(islice(left, size))
            before = len(window) if following else len(window) // 2
            self.execute_all(window[:before])
            yield
            self.execute_all(window[before:])
            window = following

    def prepared(self, cql: str) -> Statement:
        """With ``{table}`` for the table; the same object every time."""
        if (statement := self._prepared.get(cql)) is None:
            with self.errors_in_words():
                statement = self._session.prepare(cql)
            statement.consistency_level = self._consistency
            statement.serial_consistency_level = self._serial
            self._prepared[cql] = statement
        return statement

    def _bound(self, cql: str, values: Sequence[object]) -> Statement:
        return self.prepared(cql).bind(values)

    def columns_of(self, table: str) -> set[str] | None:
        """The columns of a table of the keyspace, none where there is no such table; None where
        there is no keyspace."""
        found = self._cluster.metadata.keyspaces.get(self.target.keyspace)
        if found is None:
            return None
        return set(found.tables[table].columns) if table in found.tables else set()

    def datacenters_of_keyspace(self) -> list[str]:
        """Those that hold replicas, as far as its replication says."""
        found = self._cluster.metadata.keyspaces.get(self.target.keyspace)
        factors = getattr(found and found.replication_strategy, "dc_replication_factors", None)
        return sorted(factors or ())

    def setting_of_a_node(self, name: str) -> str:
        """From the cassandra.yaml of the node that we happen to ask; empty if it does not say."""
        cql = SimpleStatement("SELECT value FROM system_views.settings WHERE name = %s")
        try:
            rows = list(self._session.execute(cql, (name,)))
        except Errors:  # a permission is missing, say
            return ""
        return str(rows[0].value) if rows else ""

    @property
    def datacenter(self) -> str:
        """The local one."""
        with self.errors_in_words():
            [row] = self._session.execute("SELECT data_center FROM system.local")
        return str(row.data_center)

    def log_connected(self, checkpoint: int | None) -> None:
        """Where the state is, and whether there is one: a keyspace that is mistyped shows here."""
        metadata = self._cluster.metadata
        versions = {str(host.release_version) for host in metadata.all_hosts()}
        log.info(
            "connected to Cassandra%s",
            Fields(
                cluster=repr(metadata.cluster_name),
                datacenter=self.datacenter,
                version=",".join(sorted(versions)),
                keyspace=self.target.keyspace,
                checkpoint="none" if checkpoint is None else checkpoint,
            ),
        )

    # -- connecting

    def _connect(self) -> tuple[Cluster, Session]:
        """Raises StoreError, at once where waiting would not help."""
        until = time.monotonic() + self.target.wait_s
        waits = False
        while True:
            cause: Exception
            try:
                return self._connect_once()
            except UnresolvableContactPoints as error:
                cause, words, may_pass = error, "none of the names is known", True
            except Errors as error:
                if self.target.datacenter:
                    self._check_datacenter()
                cause, words, may_pass = error, in_words(error), _may_pass(error)
            words = f"cannot connect to {self.where}: {words}"
            if not may_pass:
                raise StoreError(words) from cause
            if time.monotonic() > until or not self._go_on():
                raise StoreAway(words) from cause
            if not waits:
                log.warning("%s; trying again", words)
                waits = True
            time.sleep(PAUSE_S)

    def _connect_once(self) -> tuple[Cluster, Session]:
        cluster = self._new_cluster()
        try:
            session = cluster.connect()
        except BaseException:
            cluster.shutdown()
            raise
        session.default_fetch_size = PAGE_ROWS
        return cluster, session

    def _new_cluster(self) -> Cluster:
        target = self.target
        try:
            tls = target.tls_context()
            password = target.read_password()
        except (OSError, ssl.SSLError, UnicodeDecodeError) as error:
            raise StoreError(f"cannot connect to {self.where}: {error}") from error
        policy = TokenAwarePolicy(DCAwareRoundRobinPolicy(target.datacenter))
        profile = ExecutionProfile(
            load_balancing_policy=policy,
            retry_policy=FallthroughRetryPolicy(),
            consistency_level=ConsistencyLevel.name_to_value[target.consistency],
            request_timeout=target.timeout_s,
        )
        return Cluster(
            contact_points=list(target.hosts),
            auth_provider=PlainTextAuthProvider(target.user, password) if target.user else None,
            ssl_context=tls,
            protocol_version=5,
            connect_timeout=target.connect_timeout_s,
            control_connection_timeout=target.timeout_s,
            sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            # Its own waits ever longer, for ten minutes in the end.
            reconnection_policy=ConstantReconnectionPolicy(RECONNECT_S, max_attempts=None),
        )

    def _check_datacenter(self) -> None:
        """Whether that is the reason. Raises StoreError."""
        try:
            database = Database(replace(self.target, datacenter="", wait_s=0.0))
        except StoreError:
            return  # nobody is there
        try:
            hosts = database._cluster.metadata.all_hosts()
            there = sorted({str(host.datacenter) for host in hosts})
        finally:
            database.close()
        if self.target.datacenter not in there:
            raise StoreError(
                f"cannot use {self.where}: there is no data centre {self.target.datacenter}, only "
                f"{', '.join(there)}: see --cassandra-datacenter"
            )

    @contextmanager
    def errors_in_words(self) -> Iterator[None]:
        """Have every error of the driver come out as a StoreError."""
        try:
            yield
        except Errors as error:
            raise StoreError(f"cannot use {self.where}: {in_words(error)}") from error


def _may_pass(error: Exception) -> bool:
    """Whether a cluster that is not there now may be the reason."""
    if not isinstance(error, NoHostAvailable):
        return False
    # A list where a node was reached, and no connection for requests could be opened then.
    causes = error.errors.values() if isinstance(error.errors, dict) else error.errors or ()
    others = (AuthenticationFailed, ssl.SSLError)
    return not any(isinstance(cause, others) for cause in causes)


def in_words(error: Exception) -> str:
    """What went wrong, and what to do where something can be done."""
    causes = [error]
    if isinstance(error, NoHostAvailable):
        causes = list(error.errors.values()) if isinstance(error.errors, dict) else []
        if not causes:
            return "no node can be reached"
    for cause in causes:
        text = str(cause)
        if isinstance(cause, AuthenticationFailed) or "Bad credentials" in text:
            return (
                "the login was refused: see --cassandra-user and --cassandra-password-file "
                f"({_short(text)})"
            )
        if isinstance(cause, Unauthorized):
            return f"a permission is missing: {_short(text)}; docs/cassandra.md has the grants"
        if isinstance(cause, ssl.SSLError):
            if "WRONG_VERSION_NUMBER" in text:
                return f"TLS failed: that port does not speak TLS ({_short(text)})"
            return f"TLS failed: {_short(text)}; see --cassandra-tls-ca"
        if "support protocol version" in text:
            return f"what listens there is no Cassandra 4.0 or later ({_short(text)})"
        if "oversized" in text or "too large" in text:
            return (
                f"the node refuses writes as large as ours: {_short(text)}; raise the limit in its "
                "cassandra.yaml (docs/cassandra.md)"
            )
        if isinstance(cause, OperationTimedOut):
            return "no answer in time (--cassandra-timeout)"
    return "; ".join(dict.fromkeys(f"{_short(str(one)) or type(one).__name__}" for one in causes))


def _short(text: str) -> str:
    """One line, without the driver's way of quoting the server."""
    line = " ".join(text.split())
    if "Last error: " in line:
        line = line.partition("Last error: ")[2]
    if 'message="' in line:
        line = line.partition('message="')[2].rpartition('"')[0] or line
    return line[:300]
