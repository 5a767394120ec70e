"""Questions about a stream's configuration: what the rules of ``stream_rules.py`` are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from alarmdigest.nats.stream_configs import StreamConfig, age_text
from alarmdigest.nats.subjects import covers, covers_any_below, meet, meets_base, written_by

Config: TypeAlias = Mapping[str, Any]
Question: TypeAlias = "Callable[[Seen], bool]"

SECOND_NS = 10**9
HOUR_NS = 3600 * SECOND_NS


class Seen(NamedTuple):
    """A stream that is there: its configuration, what it is to be to us, and its consumers."""

    config: Config
    wanted: StreamConfig
    consumers: int = 0


def number(seen: Seen, field: str) -> int:
    """A limit; 0 and less mean that there is none."""
    value = seen.config.get(field)
    return value if isinstance(value, int) and value > 0 else 0


def mapping(seen: Seen, field: str) -> Config:
    value = seen.config.get(field)
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Config]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def discards(seen: Seen, policy: str) -> bool:
    return bool(seen.config.get("discard", "old") == policy)


def below(field: str, bound: int, policy: str = "") -> Question:
    """Whether there is a limit and it is lower, where the stream discards so."""

    def applies(seen: Seen) -> bool:
        return 0 < number(seen, field) < bound and (not policy or discards(seen, policy))

    return applies


def not_as_asked(field: str, bound: int, asked: Callable[[StreamConfig], int]) -> Question:
    """As ``below`` with discard old, unless our own options ask for just this limit."""
    low = below(field, bound, "old")
    return lambda seen: low(seen) and number(seen, field) != asked(seen.wanted)


def is_one_of(field: str, *values: object) -> Question:
    return lambda seen: seen.config.get(field) in values


def fills_up(field: str) -> Question:
    return lambda seen: number(seen, field) > 0 and discards(seen, "new")


def leaves(transform: Config, wanted: StreamConfig) -> bool:
    """Whether a mapping writes some message of the wanted stream's subjects where it must not be.

    An event must not become a request either: each must stay at its subject or below it.
    """
    source, destination = str(transform.get("src") or ">"), str(transform.get("dest") or "")
    if not destination or source == destination:
        return False
    bases = {subject.removesuffix(".>") for subject in wanted.subjects}
    if wanted.role != "alarms":
        return any(
            meet(source, subject) and not covers(subject, written_by(destination))
            for subject in wanted.subjects
        )
    return any(
        meets_base(base, source) and not covers_any_below(base, written_by(destination))
        for base in bases
    )


def transform_leaves(seen: Seen) -> bool:
    return leaves(mapping(seen, "subject_transform"), seen.wanted)


def source_leaves(seen: Seen) -> bool:
    return any(
        leaves(one, seen.wanted)
        for source in mappings(seen.config.get("sources"))
        for one in mappings(source.get("subject_transforms"))
    )


def republishes_to(which: Callable[[StreamConfig], tuple[str, ...]]) -> Question:
    def applies(seen: Seen) -> bool:
        destination = written_by(str(mapping(seen, "republish").get("dest") or ""))
        return destination != "" and any(meet(destination, one) for one in which(seen.wanted))

    return applies


def other_outputs(wanted: StreamConfig) -> tuple[str, ...]:
    return tuple(one for one in wanted.outputs if one not in wanted.subjects)


def is_full_of_consumers(seen: Seen) -> bool:
    return 0 < number(seen, "max_consumers") <= seen.consumers


def misses_replicas(seen: Seen) -> bool:
    return max(1, number(seen, "num_replicas")) < seen.wanted.replicas


_DURATIONS = ("max_age", "duplicate_window", "subject_delete_marker_ttl")


def shown(field: str, value: object) -> str:
    """A value of a configuration as a person writes it."""
    if field in _DURATIONS and isinstance(value, int):
        return age_text(value)
    if field == "mirror" and isinstance(value, dict):
        return f"of {value.get('name')}"
    if field == "subject_transform" and isinstance(value, dict):
        return f"{value.get('src') or '>'} to {value.get('dest')}"
    if field == "republish" and isinstance(value, dict):
        return f"to {value.get('dest')}"
    return value if isinstance(value, str) else json.dumps(value)


def original(seen: Seen) -> str:
    """The options that give us what a mirror copies."""
    mirror = mapping(seen, "mirror")
    given = f"{seen.wanted.option} {mirror.get('name')}"
    external = mirror.get("external")
    api = str(external.get("api", "")) if isinstance(external, dict) else ""
    tokens = api.split(".")
    if len(tokens) == 3 and tokens[0] == "$JS" and tokens[2] == "API":
        return f"--js-domain {tokens[1]} {given}"
    return given
