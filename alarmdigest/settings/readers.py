"""From the text of a setting to its value. What makes no sense is a ValueError."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from alarmdigest._ext import timestamps
from alarmdigest.nats.subjects import valid_subject

SPLIT_AUTO = 0
# What JetStream calls no limit: of a size, and of an age.
NO_SIZE_LIMIT = -1
NO_LIMIT = "unlimited"
CASSANDRA_PORT = 9042

_DURATION_UNITS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_SIZE_UNITS = {"": 1, "k": 1000, "kb": 1000, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
_SIZE_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


class Duration(int):
    """A span of time: nanoseconds, as an int."""

    @property
    def seconds(self) -> float:
        return self / 1e9


def duration(text: str) -> Duration:
    """``15ms``, ``1.5s``, ``10m``, ``1h``, ``7d``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write it like 15ms, 30s, 10m, 1h or 7d")
    nanoseconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if nanoseconds == float("inf"):
        raise ValueError("a duration of that many digits is too long")
    return Duration(round(nanoseconds))


def size(text: str) -> int:
    """``65536``, ``64KiB``, ``256MiB``, ``1GB`` -> bytes."""
    match = re.fullmatch(r"(\d+)\s*([a-zA-Z]*)", text.strip())
    if match is None or match[2].lower() not in _SIZE_UNITS:
        raise ValueError(f"{text!r} is no size; write it like 65536, 64KiB or 256MiB")
    return int(match[1]) * _SIZE_UNITS[match[2].lower()]


def size_limit(text: str) -> int:
    """A size from 1 KiB, or ``unlimited`` (-1)."""
    if text == NO_LIMIT:
        return NO_SIZE_LIMIT
    found = size(text)
    if not 1024 <= found < 2**63:
        raise ValueError(f"{text!r} is no size from 1KiB, and not {NO_LIMIT}")
    return found


def age_limit(text: str) -> Duration:
    """A duration from 1 s, or ``unlimited`` (0)."""
    if text == NO_LIMIT:
        return Duration(0)
    found = duration(text)
    if found < 10**9:
        raise ValueError(f"{text!r} is no duration from 1s, and not {NO_LIMIT}")
    return found


def interval_or_never(text: str) -> Duration:
    """A duration from 1 s, or ``0`` for never."""
    found = Duration(0) if text.strip() == "0" else duration(text)
    if 0 < found < 10**9:
        raise ValueError(f"{text!r} is no duration from 1s, and not 0")
    return found


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


def replicas(text: str) -> int:
    """A number of servers that JetStream keeps a stream on: it takes up to 5."""
    if text not in ("1", "2", "3", "4", "5"):
        raise ValueError(f"{text!r} is not a whole number from 1 to 5")
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


def token(text: str) -> str:
    """A name that becomes one part of subjects; empty for none."""
    if text and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError("must consist of 1 to 64 letters, digits, - and _")
    return text


def priority(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 1_000_000:
        raise ValueError("must be a whole number from 0 to 1000000")
    return int(text)


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
    """A reader that takes these texts only."""

    def choose(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return choose


class HttpAddress(NamedTuple):
    """Where HTTP is served; ``may_move`` to a free port unless somebody asked for this one."""

    host: str
    port: int
    may_move: bool = False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def http_address(text: str) -> HttpAddress | None:
    """``HOST:PORT`` (``[::1]:9595`` for IPv6), or ``off``."""
    if text == "off":
        return None
    # As the log says it, too.
    host, colon, port = text.removeprefix("http://").removesuffix("/").rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{text!r} is no HOST:PORT and not off")
    return HttpAddress(host.strip("[]"), int(port))


def path(text: str) -> Path | None:
    """Empty for none, or a file's path; ``~`` is the home directory."""
    try:
        return Path(text).expanduser() if text else None
    except RuntimeError:
        user = text.partition("/")[0]
        raise ValueError(f"{text!r}: nobody knows the home directory {user}") from None


def boolean(text: str) -> bool:
    """``true`` or ``false``, also written as yes and no, or 1 and 0."""
    if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in ("1", "true", "yes")


def hosts(text: str) -> tuple[tuple[str, int], ...]:
    """``HOST[:PORT]`` separated by commas, ``[::1]:9042`` for IPv6."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", part)
        if match is None or not 0 < int(match[2] or CASSANDRA_PORT) <= 65535:
            raise ValueError(f"{part!r} is no HOST[:PORT]")
        found.append((match[1].strip("[]"), int(match[2] or CASSANDRA_PORT)))
    if not found:
        raise ValueError("must name a host")
    return tuple(found)


def keyspace(text: str) -> str:
    """A name as CQL takes it, between quotes."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,47}", text):
        raise ValueError("must be a letter and up to 47 letters, digits and _")
    return text


def servers(text: str) -> tuple[str, ...]:
    """URLs separated by commas; one without a scheme gets ``nats://``.

    A comma within a password separates nothing: behind it comes an ``@`` before any scheme.
    """
    urls = [part.strip() for part in re.split(r",(?!(?:(?!://)[^@])*@)", text) if part.strip()]
    return tuple(url if "://" in url else f"nats://{url}" for url in urls)
