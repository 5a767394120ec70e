"""Settings that are right by themselves, and wrong beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from itertools import combinations, product

from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import UrlError
from alarmdigest.settings.options import MAX_SPLIT_BYTES, MIN_SPLIT_BYTES, Settings, flag_of
from alarmdigest.settings.readers import SPLIT_AUTO, Duration, duration

HUNDRED_YEARS_NS = 100 * 365 * 86_400 * 10**9
# Durations that may be zero; an age of zero is no limit.
MAY_BE_ZERO = ("clock_skew", "retention")


def contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """What no option can tell by itself: the settings that it is about, and what is wrong."""
    inputs = ("event_subject", "request_subject", "forget_subject")
    outputs = ("digest_subject", "rejected_subject")
    for names in combinations(inputs, 2):
        one, other = (getattr(settings, name) for name in names)
        if _inside(one, other) or _inside(other, one):
            yield (
                names,
                f"{flag_of(names[0])} {one} and {flag_of(names[1])} {other} overlap; "
                "neither may lie below the other",
            )
    for out_name, in_name in product(
        (*outputs, "query_subject", "due_subject", "inbox_prefix"), inputs
    ):
        out, inside = getattr(settings, out_name), getattr(settings, in_name)
        if _inside(out, inside):
            yield (
                (out_name, in_name),
                f"{flag_of(out_name)} {out} lies inside {flag_of(in_name)} {inside}: "
                "the service would read what it writes",
            )
    if settings.digest_subject == settings.rejected_subject:
        yield outputs, "--digest-subject and --rejected-subject must differ"
    if settings.split_size != SPLIT_AUTO and not (
        MIN_SPLIT_BYTES <= settings.split_size <= MAX_SPLIT_BYTES
    ):
        yield ("split_size",), "--split-size must be auto or from 16KiB to 64MiB"
    if len({settings.events_stream, settings.digests_stream, settings.rejected_stream}) < 3:
        yield (
            ("events_stream", "digests_stream", "rejected_stream"),
            "--events-stream, --digests-stream and --rejected-stream must differ",
        )
    if settings.group and settings.mode == "core":
        yield ("group", "mode"), "--group needs streams: leave --mode core out"
    if settings.trace and settings.log_level in ("warning", "error"):
        yield ("trace", "log_level"), "--trace is logged with --log-level info or debug"
    if settings.replica_name and not settings.group:
        yield ("replica_name",), "--replica-name is for a replica: say --group NAME, too"
    if settings.snapshots and settings.mode == "core":
        yield ("snapshots", "mode"), "--snapshots needs streams: leave --mode core out"
    if settings.snapshots and settings.store != "lmdb":
        yield ("snapshots", "store"), "--snapshots copies the store on disk: say --store lmdb"
    if settings.snapshots and settings.snapshot_interval == 0:
        yield (
            ("snapshots", "snapshot_interval"),
            "--snapshots and --snapshot-interval 0 exclude each other",
        )
    has_password = bool(settings.cassandra_password) or settings.cassandra_password_file is not None
    if has_password != bool(settings.cassandra_user):
        yield (
            ("cassandra_user", "cassandra_password", "cassandra_password_file"),
            "--cassandra-user and --cassandra-password-file (or ALARMDIGEST_CASSANDRA_PASSWORD) "
            "belong together",
        )
    if (settings.cassandra_tls_cert is None) != (settings.cassandra_tls_key is None):
        yield (
            ("cassandra_tls_cert", "cassandra_tls_key"),
            "--cassandra-tls-cert and --cassandra-tls-key belong together",
        )
    if settings.workers > 1024:
        yield ("workers",), "--workers must be at most 1024"
    for item in fields(Settings):
        value = getattr(settings, item.name)
        if isinstance(value, Duration) and value > HUNDRED_YEARS_NS:
            yield (item.name,), f"{flag_of(item.name)} must be at most 100 years"
        if item.metadata["read"] is duration and value == 0 and item.name not in MAY_BE_ZERO:
            yield (item.name,), f"{flag_of(item.name)} must be more than 0"
    for url in settings.server:
        try:
            Connection(url, name="")
        except UrlError as error:
            yield ("server",), str(error)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        yield ("tls_cert", "tls_key"), "--tls-cert and --tls-key belong together"
    if settings.login.wants_tls and not settings.server:
        yield (
            ("tls_ca", "tls_cert", "tls_first"),
            "--tls-ca, --tls-cert and --tls-first need a --server: the embedded one has no TLS",
        )


def unheeded(settings: Settings) -> list[str]:
    """Warnings of what a service was told and takes no notice of."""
    if settings.store == "cassandra":
        return []
    default = Settings()
    said = [
        item.name
        for item in fields(Settings)
        if item.name.startswith("cassandra")
        and getattr(settings, item.name) != getattr(default, item.name)
    ]
    if not said:
        return []
    options = ", ".join(flag_of(name) for name in said)
    return [f"{options}: of no effect, since the state is not in Cassandra (--store cassandra)"]


def _inside(inner: str, base: str) -> bool:
    return inner == base or inner.startswith(base + ".")
