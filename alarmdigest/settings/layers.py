"""The common form of all sources of settings: texts by field, each with its origin."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Level(IntEnum):
    """The kinds of sources; a higher one wins."""

    CONTEXT = 1
    FILE = 2
    NATS_VARIABLE = 3
    VARIABLE = 4
    FLAG = 5


class Given(NamedTuple):
    """A setting as somebody wrote it down. ``origin`` says where, for a person."""

    text: str
    level: Level
    origin: str


Layer = dict[str, Given]
