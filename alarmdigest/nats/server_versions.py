"""Which nats-server is old enough to lack what: the same table as in the README.

What we need is asked of the server that we are connected to; the others of its cluster should be as
new, since any of them may lead a stream.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Version = tuple[int, int, int]


class Feature(NamedTuple):
    """Something that begins with a version. ``needed_by``: the mode that cannot do without."""

    name: str
    since: Version
    without: str
    needed_by: str = ""


FEATURES: tuple[Feature, ...] = (
    Feature("core mode", (2, 2, 0), "does not start: messages have no headers", "core"),
    Feature(
        "stream mode",
        (2, 9, 4),
        "does not start: consumers have no names, or do not say how much is left to read",
        "stream",
    ),
    Feature(
        "our own clock is compared with the stream's when it was rolled back",
        (2, 10, 0),
        "all that it holds is read again; nothing is published twice",
    ),
    Feature(
        "options of a stream like `subject_transform`, `first_seq`, `consumer_limits`",
        (2, 10, 0),
        "the server takes and ignores them",
    ),
    Feature("`allow_msg_ttl` of a stream", (2, 11, 0), "the server takes and ignores it"),
    Feature(
        "an option that the server does not know is refused",
        (2, 12, 0),
        "it is ignored, and missing in `nats stream info`",
    ),
    Feature(
        "replicas of a group (`--group`)",
        (2, 12, 1),
        "does not start: `allow_atomic` of a stream is ignored, or refuses ids",
        "group",
    ),
    Feature(
        "the time at which a stream was made stays the same",
        (2, 15, 1),
        "it drifts with edits and restarts, so we do not go by it",
    ),
)


def parsed(version: str) -> Version | None:
    """``2.10.29`` or ``2.12.0-RC.1``; None for what is no number of nats-server's."""
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def floor_of(mode: str) -> Version:
    """The oldest version that can do this mode."""
    needed_by = ("core", "stream", "group")[: ("core", "stream", "group").index(mode) + 1]
    return max(feature.since for feature in FEATURES if feature.needed_by in needed_by)


def too_old(version: str, mode: str) -> str:
    """Why this server will not do for ``stream``, ``core``, or a ``group``; empty if it will, or is
    unknown."""
    found = parsed(version)
    if found is None or found == (0, 0, 0) or found >= floor_of(mode):
        return ""
    least = written(floor_of(mode))
    if mode == "group":
        return f"a group needs nats-server >= {least}, this is {version}"
    return f"{mode} mode needs nats-server >= {least}, this is {version}"


def written(version: Version) -> str:
    """As people write it: 2.9 for 2.9.0."""
    return ".".join(map(str, version if version[2] else version[:2]))


def table() -> list[str]:
    """The rows of the README."""
    return [
        f"| {feature.name} | {written(feature.since)} | {feature.without} |" for feature in FEATURES
    ]
