"""The three streams as we make them, and as `nats stream add` would."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from alarmdigest.nats.subjects import covers

SECOND_NS = 10**9
WEEK_NS = 7 * 86_400 * SECOND_NS
UNLIMITED = -1
# What nobody may ever look at must not fill the disk, nor a small account's quota.
REJECTED_BYTES = 64 * 2**20

Role: TypeAlias = Literal["alarms", "digests", "rejected"]
ROLES: tuple[Role, ...] = ("alarms", "digests", "rejected")


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """A stream as we would create it. Times in ns, 0 for ever; sizes in bytes, -1 = no limit.

    ``inputs`` and ``outputs`` are the subjects that the service reads, and writes. A stream that is
    there may lack its ``optional`` subjects, which earlier versions knew nothing of. ``domain`` is
    the JetStream domain, empty for the server's own.
    ``in_group``: replicas of a group use it.
    """

    name: str
    subjects: tuple[str, ...]
    max_age_ns: int = WEEK_NS
    max_bytes: int = UNLIMITED
    duplicate_window_ns: int = 120 * SECOND_NS
    replicas: int = 1
    role: Role = "alarms"
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    domain: str = ""
    in_group: bool = False

    @property
    def takes_batches(self) -> bool:
        """Whether it must take atomic batches."""
        return self.in_group and self.role == "digests"

    def for_its_domain(self, text: str) -> str:
        """The text with its commands of the nats tool as they must be given in this domain."""
        if not self.domain:
            return text
        return re.sub(r"\bnats (stream|consumer) ", rf"nats --js-domain {self.domain} \1 ", text)

    @property
    def option(self) -> str:
        """The option that gives us another stream instead."""
        return {"alarms": "--events-stream"}.get(self.role, f"--{self.role}-stream")

    @property
    def limit_options(self) -> str:
        """How the options for its limits begin."""
        return self.option.removesuffix("stream") + "max"

    @property
    def add_command(self) -> str:
        """How to make it with the nats tool."""
        config = self.api_config()
        size = f" --max-bytes {self.max_bytes}" if self.max_bytes > 0 else ""
        return self.for_its_domain(
            f"nats stream add {self.name} --subjects '{','.join(self.subjects)}' --storage file "
            f"--retention limits --discard old --max-age {age_text(self.max_age_ns)}{size} "
            f"--dupe-window {age_text(config['duplicate_window'])} --replicas {self.replicas} "
            f"{'--allow-batch ' if self.takes_batches else ''}--defaults"
        )

    def api_config(self) -> dict[str, Any]:
        # JetStream wants the window to lie within the age.
        window = min(self.duplicate_window_ns, self.max_age_ns or self.duplicate_window_ns)
        config: dict[str, Any] = {
            "name": self.name,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_age": self.max_age_ns,
            "max_bytes": self.max_bytes,
            "max_msgs": UNLIMITED,
            "duplicate_window": window,
            "num_replicas": self.replicas,
        }
        if self.takes_batches:
            config["allow_atomic"] = True
        return config


class StreamConfigs(NamedTuple):
    alarms: StreamConfig
    digests: StreamConfig
    rejected: StreamConfig


class Limits(NamedTuple):
    """Age in ns, 0 for ever; size in bytes, -1 = no limit."""

    max_age_ns: int = WEEK_NS
    max_bytes: int = UNLIMITED


DEFAULT_LIMITS = Limits()
REJECTED_LIMITS = Limits(max_bytes=REJECTED_BYTES)


def make_stream_configs(
    *,
    event_subject: str = "AlarmStatusChanged",
    request_subject: str = "SendAlarmDigest",
    forget_subject: str = "ForgetUser",
    digest_subject: str = "AlarmDigest",
    rejected_subject: str = "AlarmRejected",
    alarms_stream: str = "ALARMS",
    digests_stream: str = "ALARM_DIGESTS",
    rejected_stream: str = "ALARM_REJECTED",
    alarms: Limits = DEFAULT_LIMITS,
    digests: Limits = DEFAULT_LIMITS,
    rejected: Limits = REJECTED_LIMITS,
    replicas: int = 1,
    domain: str = "",
    leader_subject: str = "",
) -> StreamConfigs:
    """The three streams. ``leader_subject`` is that of a group."""
    bases = (event_subject, request_subject, forget_subject)
    inputs = [subject for base in bases for subject in _and_below(base)]
    # One subject below the other: JetStream refuses a stream whose own subjects overlap.
    inputs = [
        one for one in inputs if not any(covers(other, one) for other in inputs if other != one)
    ]
    captured = tuple(inputs)
    shared = {
        "replicas": replicas,
        "inputs": captured,
        "outputs": (digest_subject, rejected_subject),
        "domain": domain,
        "in_group": bool(leader_subject),
    }
    published = (digest_subject, leader_subject) if leader_subject else (digest_subject,)
    return StreamConfigs(
        replace(
            _stream_config(alarms_stream, captured, alarms, "alarms", shared),
            optional=tuple(one for one in captured if one in _and_below(forget_subject)),
        ),
        _stream_config(digests_stream, published, digests, "digests", shared),
        _stream_config(rejected_stream, (rejected_subject,), rejected, "rejected", shared),
    )


def _and_below(subject: str) -> tuple[str, str]:
    return subject, f"{subject}.>"


def _stream_config(
    name: str, subjects: tuple[str, ...], limits: Limits, role: Role, shared: dict[str, Any]
) -> StreamConfig:
    return StreamConfig(name, subjects, limits.max_age_ns, limits.max_bytes, role=role, **shared)


def age_text(ns: int) -> str:
    """Nanoseconds as options and the nats tool write them; 0 is for ever."""
    if ns == 0:
        return "0"
    for unit, size in (
        ("d", 24 * 3600 * SECOND_NS),
        ("h", 3600 * SECOND_NS),
        ("m", 60 * SECOND_NS),
        ("s", SECOND_NS),
    ):
        if ns >= size and ns % size == 0:
            return f"{ns // size}{unit}"
    return f"{ns / 10**6:g}ms"
