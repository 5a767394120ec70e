"""Every option once: its name, default, unit and reason.

``--digest-subject`` is the field ``digest_subject``, the variable ``ALARMDIGEST_DIGEST_SUBJECT``
and the key ``digest_subject`` of a settings file. ``sources.py`` reads these, and ``resolve.py``
says which of them wins.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from alarmdigest.nats.auth import INBOX_PREFIX, Login
from alarmdigest.settings.option_fields import flag, option, secret
from alarmdigest.settings.readers import (
    Duration,
    HttpAddress,
    age_limit,
    duration,
    hosts,
    http_address,
    interval_or_never,
    js_domain,
    keyspace,
    one_of,
    path,
    positive,
    priority,
    replicas,
    servers,
    size,
    size_limit,
    split_size,
    start,
    stream_name,
    subject,
    token,
)

MIN_SPLIT_BYTES = 16 * 1024
MAX_SPLIT_BYTES = 64 * 1024 * 1024
# What a digest's headers take of max_payload: version line, Nats-Msg-Id, and room for more.
HEADER_ROOM_BYTES = 512

VARIABLE_PREFIX = "ALARMDIGEST_"
# The settings of the settings, which say where else to look: placeholder and help. They are options
# and variables, too.
LOCATORS = {
    "config": ("FILE", "a settings file in TOML (default: ALARMDIGEST_CONFIG)"),
    "context": (
        "NAME",
        "a context of the nats tool with server and login (default: ALARMDIGEST_CONTEXT, "
        "else NATS_CONTEXT)",
    ),
}
# Each line is one way to log in.
WAYS_TO_LOG_IN = (
    ("user", "password", "password_file"),
    ("token", "token_file"),
    ("creds",),
    ("nkey",),
)
LOGIN_NAMES = frozenset(name for way in WAYS_TO_LOG_IN for name in way)


class SettingsError(ValueError):
    """Settings that cannot be used: one line for each, which says which, where it comes from, and
    what would do."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


DEFAULT_HTTP = HttpAddress("127.0.0.1", 9595, may_move=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of the service. Sizes in bytes."""

    server: tuple[str, ...] = option(
        servers,
        "",
        "URL",
        "nats://host:port or tls://host:port; repeat it for more servers of a cluster "
        "(default: NATS_URL, else the one on 127.0.0.1:4222, else an embedded one there)",
    )
    data_dir: Path = option(
        Path, "alarmdigest-data", "DIR", "where the state and the embedded server's files are kept"
    )
    workers: int = option(
        positive, "12", "N", "worker threads; users are spread over them by mmh3 of their id"
    )
    mode: str = option(
        one_of("auto", "stream", "core"),
        "auto",
        "MODE",
        "how events are read: stream = from JetStream, which loses nothing; core = plain "
        "subscriptions; auto = stream where the server has JetStream, else core",
    )
    store: str = option(
        one_of("lmdb", "memory", "cassandra"),
        "lmdb",
        "STORE",
        "where the state is kept: lmdb = on disk in the data directory; cassandra = in a keyspace "
        "of that cluster; memory = nowhere, everything is forgotten at the end",
    )
    checkpoint_interval: Duration = option(
        duration, "1s", "TIME", "how often what has changed is written to the store"
    )
    start: Literal["first", "new"] | int = option(
        start,
        "first",
        "WHERE",
        "where to begin in the stream when the store is empty: first = with the oldest message; "
        "new = with what comes from now on; or a time like 2026-01-31T12:00:00Z",
    )
    group: str = option(
        token,
        "",
        "NAME",
        "take part in this group: any number of instances with the same one are replicas of each "
        "other, one of which publishes (needs nats-server 2.12.1 or newer)",
    )
    replica_name: str = option(
        token, "", "NAME", "what this replica is called in its group (default: the host's name)"
    )
    leader_priority: int = option(
        priority,
        "100",
        "N",
        "who has more stands first when a leader is needed; 0 never leads",
    )
    snapshots: bool = flag(
        "keep snapshots of the state in JetStream's object store, and start from the newest one "
        "where the data directory is empty; a group does so anyway"
    )
    snapshot_interval: Duration = option(
        interval_or_never, "1h", "TIME", "how often a snapshot is made; 0 = never, nor started from"
    )
    snapshots_max_bytes: int = option(
        size_limit,
        "unlimited",
        "SIZE",
        "how much the bucket of snapshots, if we make it, holds: three times the store is enough",
    )
    http: HttpAddress | None = field(
        default_factory=lambda: DEFAULT_HTTP,
        metadata={
            "read": http_address,
            "default": f"{DEFAULT_HTTP.host}:{DEFAULT_HTTP.port}",
            "meta": "HOST:PORT",
            "help": "where the page, metrics and health are served, or off; when the default "
            "port is taken, a free one is used",
        },
    )
    log_level: str = option(
        one_of("debug", "info", "warning", "error"),
        "info",
        "LEVEL",
        "least level to log: debug, info, warning or error",
    )
    log_format: str = option(
        one_of("text", "json"), "text", "FORMAT", "text or json; always on stderr"
    )

    event_subject: str = option(
        subject, "AlarmStatusChanged", "SUBJECT", "events come in here and below it (SUBJECT.>)"
    )
    request_subject: str = option(
        subject, "SendAlarmDigest", "SUBJECT", "digest requests come in here and below it"
    )
    forget_subject: str = option(subject, "ForgetUser", "SUBJECT", "and users to forget, likewise")
    digest_subject: str = option(subject, "AlarmDigest", "SUBJECT", "digests go out here")
    rejected_subject: str = option(
        subject, "AlarmRejected", "SUBJECT", "rejected messages go out here, with the reason"
    )
    query_subject: str = option(
        subject, "AlarmDigestQuery", "SUBJECT", "questions of operators are answered below it"
    )
    due_subject: str = option(
        subject, "AlarmDue", "SUBJECT", "who became due is told here, while a scheduler asks for it"
    )

    events_stream: str = option(stream_name, "ALARMS", "NAME", "the stream that captures all input")
    digests_stream: str = option(
        stream_name, "ALARM_DIGESTS", "NAME", "the stream that captures digests"
    )
    rejected_stream: str = option(
        stream_name, "ALARM_REJECTED", "NAME", "the stream that captures rejected messages"
    )
    no_create_streams: bool = flag("do not make streams that are missing: end with code 2 instead")
    stream_replicas: int = option(
        replicas,
        "1",
        "N",
        "on how many servers of a cluster (1 to 5) the streams that we make are kept",
    )
    events_max_age: Duration = option(
        age_limit, "7d", "TIME", "how long the events stream, if we make it, keeps a message"
    )
    events_max_bytes: int = option(
        size_limit,
        "unlimited",
        "SIZE",
        "how much the events stream, if we make it, holds; an account or server with limits may "
        "want a size",
    )
    digests_max_age: Duration = option(
        age_limit, "7d", "TIME", "how long the digests stream, if we make it, keeps a digest"
    )
    digests_max_bytes: int = option(
        size_limit, "unlimited", "SIZE", "how much the digests stream, if we make it, holds"
    )
    rejected_max_age: Duration = option(
        age_limit,
        "7d",
        "TIME",
        "how long the stream of rejected messages, if we make it, keeps one",
    )
    rejected_max_bytes: int = option(
        size_limit,
        "64MiB",
        "SIZE",
        "how much the stream of rejected messages, if we make it, holds",
    )
    js_domain: str = option(js_domain, "", "NAME", "the JetStream domain to use, if not the own")

    clock_skew: Duration = option(
        duration,
        "1h",
        "TIME",
        "how far a ChangedAt may lie after the arrival of its message (a stream's: by the stream's "
        "timestamps); one further ahead counts as just that far, "
        "so that a wrong clock hides an alarm's other events for this long at most",
    )
    retention: Duration = option(
        duration,
        "7d",
        "TIME",
        "how long a cleared alarm is remembered, so that late events cannot revive it",
    )
    accept_clock_step: bool = flag(
        "for a start after a clock was wrong by more than a day: go by our clock as it is now, "
        "also when it steps; without it core mode goes along with no such step, and starts on no "
        "store that is ahead of our clock by so much"
    )
    publish_empty: bool = flag("answer a request with an empty digest when nothing is due")
    split_size: int = option(
        split_size,
        "auto",
        "SIZE",
        "a larger digest is split into several messages; auto = what the server takes at once",
    )
    backlog_limit: int = option(
        size,
        "512MiB",
        "SIZE",
        "core mode: how much may wait for workers that lag; what arrives beyond it is dropped and "
        "counted. Stream mode leaves it in the stream, from 64 MiB on",
    )
    connect_timeout: Duration = option(
        duration, "30s", "TIME", "how long to try for a first connection before exit code 3"
    )
    connect_attempt_timeout: Duration = option(
        duration,
        "5s",
        "TIME",
        "how long one attempt to connect to one server may take, with TLS and login",
    )
    ping_interval: Duration = option(
        duration, "20s", "TIME", "our pings to the server; it is given up after two without answer"
    )
    drain_timeout: Duration = option(
        duration, "30s", "TIME", "how long a shutdown may take before exit code 5"
    )
    show_users: bool = flag(
        "show on the page who waits for a digest, with their ids, to everybody who reaches it"
    )
    trace: str = option(
        str, "", "USER", "log each step of this user's messages, for the first hour"
    )
    no_service_api: bool = flag(
        "do not answer the NATS service API (`nats micro`), nor questions of operators"
    )
    nats_server: str = option(
        str, "", "PATH", "the nats-server to embed, instead of the one in our wheel or on the PATH"
    )

    cassandra: tuple[tuple[str, int], ...] = option(
        hosts,
        "127.0.0.1:9042",
        "HOST[:PORT]",
        "a node of the cluster that keeps the state; repeat it for more",
    )
    cassandra_keyspace: str = option(
        keyspace,
        "alarmdigest",
        "NAME",
        "the keyspace that holds the state of this service, or of this group, alone",
    )
    cassandra_datacenter: str = option(
        str, "", "NAME", "the data centre to use (default: that of the first node that answers)"
    )
    cassandra_consistency: str = option(
        one_of("LOCAL_QUORUM", "QUORUM"),
        "LOCAL_QUORUM",
        "LEVEL",
        "LOCAL_QUORUM, with LOCAL_SERIAL for conditional writes; or QUORUM, with SERIAL, where "
        "instances in several data centres use one keyspace",
    )
    cassandra_timeout: Duration = option(
        duration, "5s", "TIME", "how long to wait for an answer before a request is asked again"
    )
    cassandra_user: str = option(str, "", "NAME", "the user to log in to Cassandra as")
    cassandra_password: str = secret("the password of the user in Cassandra")
    cassandra_password_file: Path | None = option(
        path, "", "FILE", "a file that holds the password of that user and nothing else"
    )
    cassandra_tls: bool = flag("talk to Cassandra in TLS, and verify its certificates and names")
    cassandra_tls_ca: Path | None = option(
        path, "", "FILE", "authorities that may vouch for Cassandra; implies --cassandra-tls"
    )
    cassandra_tls_cert: Path | None = option(
        path, "", "FILE", "our certificate, where Cassandra asks for one"
    )
    cassandra_tls_key: Path | None = option(
        path, "", "FILE", "the key of that certificate, not encrypted"
    )

    user: str = option(str, "", "NAME", "the user to log in as, with a password")
    password: str = secret("the user's password")
    password_file: Path | None = option(
        path, "", "FILE", "a file that holds the user's password and nothing else"
    )
    token: str = secret("the token to log in with, instead of a user")
    token_file: Path | None = option(path, "", "FILE", "a file that holds the token to log in with")
    creds: Path | None = option(
        path, "", "FILE", "a credentials file, as nsc writes it, to log in with"
    )
    nkey: Path | None = option(path, "", "FILE", "a file that holds an nkey's seed to log in with")
    tls_ca: Path | None = option(
        path,
        "",
        "FILE",
        "authorities that may vouch for the server, instead of those that the system trusts",
    )
    tls_cert: Path | None = option(path, "", "FILE", "our certificate, for a server that asks")
    tls_key: Path | None = option(path, "", "FILE", "the key of our certificate, not encrypted")
    tls_first: bool = flag("start TLS before the server says anything (its handshake_first)")
    inbox_prefix: str = option(
        subject, INBOX_PREFIX, "SUBJECT", "answers to our own requests come in below it"
    )

    @property
    def login(self) -> Login:
        """What a connection needs to know to be let in."""
        return Login(**{item.name: getattr(self, item.name) for item in fields(Login)})

    @property
    def place_of_state(self) -> str:
        """Where the state is kept, for a person."""
        places = {"cassandra": f"the keyspace {self.cassandra_keyspace}", "memory": "memory"}
        return places.get(self.store, f"the folder {self.data_dir}")

    @property
    def subjects(self) -> tuple[str, ...]:
        """Of all messages that go in and out."""
        inputs = (self.event_subject, self.request_subject, self.forget_subject)
        return (*inputs, self.digest_subject, self.rejected_subject, self.due_subject)

    @property
    def keeps_snapshots(self) -> bool:
        """Whether they are made, and started from, where the service reads a stream."""
        wanted = self.snapshots or bool(self.group)
        return wanted and self.snapshot_interval > 0 and self.store == "lmdb"


NAMES = tuple(item.name for item in fields(Settings))
FLAGS = frozenset(item.name for item in fields(Settings) if item.default is False)
SECRETS = frozenset(item.name for item in fields(Settings) if not item.repr)


def variable(name: str) -> str:
    """The environment variable of a field."""
    return VARIABLE_PREFIX + name.upper()


def default_of(item: Field[Any]) -> str:
    """The text of a field's default; empty for none."""
    return "false" if item.name in FLAGS else str(item.metadata.get("default", ""))


def flag_of(name: str) -> str:
    """The option of a field, as it is written."""
    return "--" + name.replace("_", "-")
