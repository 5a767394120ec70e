"""Every option once: its name, default, unit and reason. Flags win over environment over defaults.

``--digest-subject`` is the field ``digest_subject`` and the variable
``ALARMDIGEST_DIGEST_SUBJECT``; servers are also taken from ``NATS_URL``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alarmdigest._ext import timestamps
from alarmdigest.nats.connection import valid_subject

SPLIT_AUTO = 0
MIN_SPLIT_BYTES = 16 * 1024
MAX_SPLIT_BYTES = 64 * 1024 * 1024
# What a digest's headers take of max_payload: version line, Nats-Msg-Id, and room for more.
HEADER_ROOM_BYTES = 512
HUNDRED_YEARS_NS = 100 * 365 * 86_400 * 10**9

# Durations that must not be zero.
DURATIONS_FROM_ZERO = ("checkpoint_interval", "connect_timeout", "ping_interval", "drain_timeout")

_DURATION_UNITS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_SIZE_UNITS = {"": 1, "k": 1000, "kb": 1000, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
_SIZE_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


class SettingsError(ValueError):
    """An option whose value cannot be used: names the option and says what would do."""


def duration(text: str) -> int:
    """``15ms``, ``1.5s``, ``10m``, ``1h``, ``7d`` -> nanoseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write it like 15ms, 30s, 10m, 1h or 7d")
    nanoseconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if nanoseconds == float("inf"):
        raise ValueError("a duration of that many digits is too long")
    return round(nanoseconds)


def size(text: str) -> int:
    """``65536``, ``64KiB``, ``256MiB``, ``1GB`` -> bytes."""
    match = re.fullmatch(r"(\d+)\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].lower() not in _SIZE_UNITS:
        raise ValueError(f"{text!r} is no size; write it like 65536, 64KiB or 256MiB")
    return int(match[1]) * _SIZE_UNITS[match[2].lower()]


def split_size(text: str) -> int:
    """A size, or ``auto`` for what the server takes."""
    if text == "auto":
        return SPLIT_AUTO
    found = size(text)
    if found == SPLIT_AUTO:
        raise ValueError(f"{text!r} is too small; write auto, or a size from 16KiB")
    return found


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number from 1")
    return int(text)


def subject(text: str) -> str:
    """A subject to publish to: tokens separated by dots, no wildcards, no blanks."""
    if not valid_subject(text):
        raise ValueError(f"{text!r} is no NATS subject without wildcards")
    return text


def stream_name(text: str) -> str:
    """A stream's name: it becomes part of subjects of the JetStream API."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", text):
        raise ValueError(f"{text!r} is no stream name: letters, digits, - and _")
    return text


def js_domain(text: str) -> str:
    """Empty, or one token of a subject."""
    return stream_name(text) if text else ""


def start(text: str) -> Literal["first", "new"] | int:
    """``first``, ``new``, or RFC 3339 -> nanoseconds since 1970 UTC."""
    if text == "first":
        return "first"
    if text == "new":
        return "new"
    try:
        return timestamps.to_ns(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither first nor new nor a time like 2026-01-31T12:00:00Z"
        ) from None


def one_of(*choices: str) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    choose.__doc__ = " | ".join(choices)
    return choose


class HttpAddress(NamedTuple):
    """Where HTTP is served; ``may_move`` to a free port unless somebody asked for this one."""

    host: str
    port: int
    may_move: bool = False


def http_address(text: str) -> HttpAddress | None:
    """``HOST:PORT`` (``[::1]:9595`` for IPv6), or ``off``."""
    if text == "off":
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} is no HOST:PORT and not off")
    return HttpAddress(host.strip("[]"), int(port))


DEFAULT_HTTP = HttpAddress("127.0.0.1", 9595, may_move=True)


def option(read: Callable[[str], Any], default: str, meta: str, help_text: str) -> Any:
    """A settings field: how to read its text, its default as text, its placeholder, its help."""
    return field(
        default_factory=lambda: read(default),
        metadata={"read": read, "default": default, "meta": meta, "help": help_text},
    )


def flag(help_text: str) -> Any:
    """A settings field that is off unless asked for."""
    return field(default=False, metadata={"help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of the service. Durations in nanoseconds, sizes in bytes."""

    server: tuple[str, ...] = ()
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
        one_of("lmdb", "memory"),
        "lmdb",
        "STORE",
        "where the state is kept: lmdb = on disk in the data directory; memory = nowhere, "
        "everything is forgotten at the end",
    )
    checkpoint_interval: int = option(
        duration, "1s", "TIME", "how often what has changed is written to the store"
    )
    start: Literal["first", "new"] | int = option(
        start,
        "first",
        "WHERE",
        "where to begin in the stream when the store is empty: first = with the oldest message; "
        "new = with what comes from now on; or a time like 2026-01-31T12:00:00Z",
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
        one_of("debug", "info", "warning", "error"), "info", "LEVEL", "least level to log"
    )
    log_format: str = option(one_of("text", "json"), "text", "FORMAT", "text or json")

    event_subject: str = option(
        subject, "AlarmStatusChanged", "SUBJECT", "events come in here and below it (SUBJECT.>)"
    )
    request_subject: str = option(
        subject, "SendAlarmDigest", "SUBJECT", "digest requests come in here and below it"
    )
    digest_subject: str = option(subject, "AlarmDigest", "SUBJECT", "digests go out here")
    rejected_subject: str = option(
        subject, "AlarmRejected", "SUBJECT", "refused messages go out here, with the reason"
    )

    events_stream: str = option(
        stream_name, "ALARMS", "NAME", "the stream that captures events and requests"
    )
    digests_stream: str = option(
        stream_name, "ALARM_DIGESTS", "NAME", "the stream that captures digests"
    )
    rejected_stream: str = option(
        stream_name, "ALARM_REJECTED", "NAME", "the stream that captures refused messages"
    )
    no_create_streams: bool = flag("do not make streams that are missing: end with code 2 instead")
    stream_replicas: int = option(
        positive, "1", "N", "on how many servers of a cluster the streams that we make are kept"
    )
    js_domain: str = option(js_domain, "", "NAME", "the JetStream domain to use, if not the own")

    clock_skew: int = option(
        duration,
        "1h",
        "TIME",
        "how far ahead of our clock a ChangedAt may be; one further ahead counts as just that far, "
        "so that a wrong clock hides an alarm's other events for this long at most",
    )
    retention: int = option(
        duration,
        "7d",
        "TIME",
        "how long a cleared alarm is remembered, so that late events cannot revive it",
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
        "how much may wait for workers that lag; beyond it arriving messages are dropped, counted",
    )
    connect_timeout: int = option(
        duration, "30s", "TIME", "how long to try for a first connection before exit code 3"
    )
    ping_interval: int = option(
        duration, "20s", "TIME", "our pings to the server; it is given up after two without answer"
    )
    drain_timeout: int = option(
        duration, "30s", "TIME", "how long a shutdown may take before exit code 5"
    )
    nats_server: str = option(
        str, "", "PATH", "the nats-server to embed, instead of the one on the PATH or in our wheel"
    )


FLAGS = frozenset(item.name for item in fields(Settings) if item.default is False)


def from_texts(texts: Mapping[str, str], environment: Mapping[str, str]) -> Settings:
    """Settings from flags (field name -> text) and environment. Raises SettingsError."""
    values: dict[str, Any] = {}
    for item in fields(Settings):
        variable = f"ALARMDIGEST_{item.name.upper()}"
        origin = "--" + item.name.replace("_", "-")
        text = texts.get(item.name)
        if text is None and variable in environment:
            text, origin = environment[variable], variable
        if item.name == "server":
            values["server"], origin = _servers(text, environment), "--server"
            continue
        if text is None:
            continue
        if item.name in FLAGS:
            values[item.name] = _flag(text, origin)
            continue
        try:
            values[item.name] = item.metadata["read"](text)
        except ValueError as error:
            raise SettingsError(f"{origin}: {error}") from None
    settings = Settings(**values)
    _check(settings)
    return settings


def _servers(text: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """From the flags (joined by commas), ALARMDIGEST_SERVER, or NATS_URL; may be none."""
    listed = text if text is not None else environment.get("NATS_URL", "")
    urls = [part.strip() for part in listed.split(",") if part.strip()]
    return tuple(url if "://" in url else f"nats://{url}" for url in urls)


def _flag(text: str, origin: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise SettingsError(f"{origin}: {text!r} is neither true nor false")
    return text.lower() in ("1", "true", "yes")


def _check(settings: Settings) -> None:
    """What no option can tell by itself. Raises SettingsError."""
    inputs = {
        "--event-subject": settings.event_subject,
        "--request-subject": settings.request_subject,
    }
    outputs = {
        "--digest-subject": settings.digest_subject,
        "--rejected-subject": settings.rejected_subject,
    }
    if _inside(settings.event_subject, settings.request_subject) or _inside(
        settings.request_subject, settings.event_subject
    ):
        raise SettingsError(
            f"--event-subject {settings.event_subject} and --request-subject "
            f"{settings.request_subject} overlap; neither may lie below the other"
        )
    for out_name, out in outputs.items():
        for in_name, inside in inputs.items():
            if _inside(out, inside):
                raise SettingsError(
                    f"{out_name} {out} lies inside {in_name} {inside}: "
                    "the service would read what it writes"
                )
    if settings.digest_subject == settings.rejected_subject:
        raise SettingsError("--digest-subject and --rejected-subject must differ")
    if settings.split_size != SPLIT_AUTO and not (
        MIN_SPLIT_BYTES <= settings.split_size <= MAX_SPLIT_BYTES
    ):
        raise SettingsError("--split-size must be auto or from 16KiB to 64MiB")
    names = {settings.events_stream, settings.digests_stream, settings.rejected_stream}
    if len(names) < 3:
        raise SettingsError("--events-stream, --digests-stream and --rejected-stream must differ")
    for name in ("clock_skew", "retention", *DURATIONS_FROM_ZERO):
        if getattr(settings, name) > HUNDRED_YEARS_NS:
            raise SettingsError(f"--{name.replace('_', '-')} must be at most 100 years")
    if settings.workers > 1024:
        raise SettingsError("--workers must be at most 1024")
    for name in DURATIONS_FROM_ZERO:
        if getattr(settings, name) == 0:
            raise SettingsError(f"--{name.replace('_', '-')} must be more than 0")


def _inside(inner: str, base: str) -> bool:
    return inner == base or inner.startswith(base + ".")
