"""Where the cluster is, and how to talk to it: what the settings say."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from alarmdigest.settings import Settings


@dataclass(frozen=True, slots=True)
class Target:
    """Times in seconds. Without ``datacenter`` it is that of the first host that answers."""

    hosts: tuple[tuple[str, int], ...]
    keyspace: str
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    datacenter: str = ""
    consistency: str = "LOCAL_QUORUM"
    timeout_s: float = 5.0
    connect_timeout_s: float = 5.0
    wait_s: float = 0.0
    """How long a start waits for a cluster that is not there."""

    @classmethod
    def of(cls, settings: Settings) -> Target:
        return cls(
            hosts=settings.cassandra,
            keyspace=settings.cassandra_keyspace,
            user=settings.cassandra_user,
            password=settings.cassandra_password,
            password_file=settings.cassandra_password_file,
            tls=settings.cassandra_tls or settings.cassandra_tls_ca is not None,
            tls_ca=settings.cassandra_tls_ca,
            tls_cert=settings.cassandra_tls_cert,
            tls_key=settings.cassandra_tls_key,
            datacenter=settings.cassandra_datacenter,
            consistency=settings.cassandra_consistency,
            timeout_s=settings.cassandra_timeout.seconds,
            connect_timeout_s=settings.connect_attempt_timeout.seconds,
            wait_s=settings.connect_timeout.seconds,
        )

    def __str__(self) -> str:
        return f"the keyspace {self.keyspace} on {self.hosts_text}"

    @property
    def hosts_text(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self.hosts)

    def read_password(self) -> str:
        """Raises OSError."""
        if self.password_file is not None:
            return self.password_file.read_text("utf-8").rstrip("\r\n")
        return self.password

    def tls_context(self) -> ssl.SSLContext | None:
        """One that verifies the servers and their names, None for none.

        Raises OSError, and ssl.SSLError for files that hold no certificates.
        """
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=str(self.tls_ca) if self.tls_ca else None)
        if self.tls_cert is not None:
            context.load_cert_chain(str(self.tls_cert), str(self.tls_key))
        return context
