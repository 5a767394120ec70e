"""The bridge's settings file: who an alert is for, what its alarm is called, and how it comes in.

``deploy/bridge.toml`` has every key with its default and a comment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from alarmdigest.connect.bridge.templates import Template
from alarmdigest.connect.toml_tables import (
    Readers,
    boolean,
    of_text,
    read_tables,
    text,
    texts,
)
from alarmdigest.settings import Duration, SettingsError, duration, size
from alarmdigest.settings.readers import age_limit, size_limit, stream_name

DAY_NS = 86_400 * 10**9
DEFAULT_LISTEN = "127.0.0.1:9596"
WARNING, CRITICAL = "WARNING", "CRITICAL"


@dataclass(frozen=True, slots=True)
class UserRules:
    """``labels`` are looked at in order, and the first that is there names the user; with ``all``
    each of them does. ``template`` goes before them."""

    labels: tuple[str, ...] = ("user", "owner", "team")
    all: bool = False
    template: Template | None = None
    separator: str = ","
    default: str = "default"


@dataclass(frozen=True, slots=True)
class AlarmRules:
    """``without`` are labels that are no part of the AlarmID."""

    template: Template | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeverityRules:
    """Words in lower case. ``default`` is the status for every other word, and for none."""

    label: str = "severity"
    critical: tuple[str, ...] = (
        *("critical", "crit", "page", "error", "fatal", "emergency", "emerg", "alert"),
        *("disaster", "high", "severe", "p1", "sev1"),
    )
    warning: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    default: str = WARNING


@dataclass(frozen=True, slots=True)
class TimeRules:
    """Durations in ns. A time further in the future than ``ahead`` counts as so long after receipt;
    what was CLEARED is remembered for ``remember``."""

    ahead: Duration = Duration(60 * 10**9)
    remember: Duration = Duration(8 * DAY_NS)
    bucket: str = "ALARM_BRIDGE"


@dataclass(frozen=True, slots=True)
class DetailRules:
    """``max_age`` in ns, ``max_bytes`` of the bucket."""

    off: bool = False
    bucket: str = "ALARM_DETAILS"
    max_age: Duration = Duration(30 * DAY_NS)
    max_bytes: int = 256 * 2**20


@dataclass(frozen=True, slots=True)
class HttpRules:
    """``timeout`` is for a request to come in, ``answer_timeout`` for NATS to confirm it, both in
    ns; ``max_body`` in bytes."""

    listen: str = DEFAULT_LISTEN
    max_body: int = 16 * 2**20
    timeout: Duration = Duration(30 * 10**9)
    answer_timeout: Duration = Duration(8 * 10**9)
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tls_client_names: tuple[str, ...] = ()
    bearer_file: str = ""
    basic_file: str = ""
    netdata_secret_file: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """All of it. ``file`` is where it came from, if from anywhere."""

    user: UserRules = field(default_factory=UserRules)
    alarm: AlarmRules = field(default_factory=AlarmRules)
    severity: SeverityRules = field(default_factory=SeverityRules)
    time: TimeRules = field(default_factory=TimeRules)
    details: DetailRules = field(default_factory=DetailRules)
    http: HttpRules = field(default_factory=HttpRules)
    file: Path | None = None


def _template(value: Any) -> Template | None:
    return Template(found) if (found := text(value)) else None


def _words(value: Any) -> tuple[str, ...]:
    return tuple(word.strip().lower() for word in texts(value))


def _status(value: Any) -> str:
    if value not in (WARNING, CRITICAL, "reject"):
        raise ValueError(f"{value!r:.40} is none of WARNING, CRITICAL, reject")
    return str(value)


_READERS: Readers = {
    "user": {
        "labels": texts,
        "all": boolean,
        "template": _template,
        "separator": text,
        "default": text,
    },
    "alarm": {"template": _template, "without": texts},
    "severity": {
        "label": text,
        "critical": _words,
        "warning": _words,
        "ignored": _words,
        "default": _status,
    },
    "time": {
        "ahead": of_text(duration),
        "remember": of_text(age_limit),
        "bucket": of_text(stream_name),
    },
    "details": {
        "off": boolean,
        "bucket": of_text(stream_name),
        "max_age": of_text(age_limit),
        "max_bytes": of_text(size_limit),
    },
    "http": {
        "listen": text,
        "max_body": of_text(size),
        "timeout": of_text(duration),
        "answer_timeout": of_text(duration),
        "tls_client_names": texts,
        **dict.fromkeys(
            (
                *("tls_cert", "tls_key", "tls_client_ca"),
                *("bearer_file", "basic_file", "netdata_secret_file"),
            ),
            text,
        ),
    },
}


def read_rules(file: Path | None) -> Rules:
    """What the file says, and defaults. Raises SettingsError with a line for each mistake."""
    rules = Rules(file=file)
    if file is None:
        return rules
    tables = read_tables(file, _READERS)
    rules = replace(
        rules, **{title: _with(getattr(rules, title), table) for title, table in tables.items()}
    )
    if problems := [f"{file}: {one}" for one in _contradictions(rules)]:
        raise SettingsError(*problems)
    return rules


def _with(part: Any, table: Mapping[str, Any]) -> Any:
    assert {one.name for one in fields(part)} >= table.keys()
    return replace(part, **table)


def _contradictions(rules: Rules) -> list[str]:
    found, http, severity = [], rules.http, rules.severity
    if not rules.user.labels and rules.user.template is None and not rules.user.default:
        found.append("[user] nothing can name a user: give labels, a template or a default")
    named = [*severity.critical, *severity.warning, *severity.ignored]
    if twice := sorted({word for word in named if named.count(word) > 1}):
        found.append(
            f"[severity] {', '.join(twice)} stands in two lists; `critical` has defaults where the "
            "file does not give it"
        )
    if bool(http.tls_cert) != bool(http.tls_key):
        found.append("[http] tls_cert and tls_key belong together")
    if http.tls_client_ca and not http.tls_cert:
        found.append("[http] tls_client_ca needs tls_cert and tls_key")
    if http.tls_client_names and not http.tls_client_ca:
        found.append("[http] tls_client_names needs tls_client_ca")
    return found


def needs_restart(old: Rules, new: Rules) -> list[str]:
    """The names of what has changed and is used from a start on only."""
    found = [
        f"[{title}]" for title in ("time", "details") if getattr(old, title) != getattr(new, title)
    ]
    at_start = ("listen", "timeout", "answer_timeout", "tls_client_ca")
    found += [
        f"[http] {name}" for name in at_start if getattr(old.http, name) != getattr(new.http, name)
    ]
    if bool(old.http.tls_cert) != bool(new.http.tls_cert):
        found.append("[http] tls_cert")
    return found
