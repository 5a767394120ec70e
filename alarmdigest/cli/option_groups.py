"""The settings as the help groups them, and those that each kind of command uses."""

from __future__ import annotations

from collections.abc import Mapping

# Every setting in the order of the help, and the two that say where else settings are.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "settings": (
        *("server", "context", "data_dir", "mode", "store", "workers", "http"),
        *("log_level", "log_format", "config"),
    ),
    "logging in": ("user", "password_file", "token_file", "creds", "nkey", "inbox_prefix"),
    "TLS": ("tls_ca", "tls_cert", "tls_key", "tls_first"),
    "subjects": (
        *("event_subject", "request_subject", "forget_subject"),
        *("digest_subject", "rejected_subject", "query_subject", "due_subject"),
    ),
    "streams": (
        *("events_stream", "digests_stream", "rejected_stream", "start"),
        *("no_create_streams", "stream_replicas", "js_domain"),
        *("events_max_age", "events_max_bytes", "digests_max_age", "digests_max_bytes"),
        *("rejected_max_age", "rejected_max_bytes"),
    ),
    "replicas": (
        *("group", "replica_name", "leader_priority"),
        *("snapshots", "snapshot_interval", "snapshots_max_bytes"),
    ),
    "Cassandra": (
        *("cassandra", "cassandra_keyspace", "cassandra_datacenter", "cassandra_consistency"),
        *("cassandra_timeout", "cassandra_user", "cassandra_password_file", "cassandra_tls"),
        *("cassandra_tls_ca", "cassandra_tls_cert", "cassandra_tls_key"),
    ),
    "digests": ("retention", "clock_skew", "accept_clock_step", "publish_empty", "split_size"),
    "times and limits": (
        *("checkpoint_interval", "connect_timeout", "connect_attempt_timeout"),
        *("ping_interval", "drain_timeout"),
        "backlog_limit",
    ),
    "parts": ("nats_server", "no_service_api", "show_users", "trace"),
}
EVERYWHERE = ("log_level", "log_format", "config")
# One set of options suits all commands: every command takes these, and shows those that it uses.
SHARED = (
    *("server", "data_dir", "mode", "store", "http", "context", *EVERYWHERE),
    *GROUPS["logging in"],
    *GROUPS["TLS"],
    *GROUPS["subjects"],
)
TO_CONNECT = (
    *("server", "context", *GROUPS["logging in"], *GROUPS["TLS"]),
    *("connect_attempt_timeout", *EVERYWHERE),
)
OF_A_GROUP = ("group", *TO_CONNECT, "events_stream", "digests_stream", "js_domain")
OF_SNAPSHOTS = (
    *("group", "data_dir", "replica_name", *TO_CONNECT, *GROUPS["subjects"]),
    *("events_stream", "digests_stream", "rejected_stream", "js_domain"),
    *("no_create_streams", "stream_replicas", "snapshots_max_bytes"),
)
OF_THE_STORE = ("store", "data_dir", *GROUPS["Cassandra"], *EVERYWHERE)
EVERYTHING = tuple(name for names in GROUPS.values() for name in names)
TO_TRY = (*TO_CONNECT, "event_subject", "request_subject", "digest_subject")
