"""An alert as a sender tells it, in the words that all senders have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import orjson

NOTHING: Mapping[str, str] = MappingProxyType({})


class Alert(NamedTuple):
    """One alert of one sender.

    ``labels`` tell which alert it is. ``user`` says whose it is, where the sender or the address of
    the request says so; ``hints`` are what else may. Times are in ns since 1970, 0 where the sender
    told none that can be used. ``keeps_start``: the time of its beginning may be an old one when it
    fires again; else each change has its own time. ``severity`` is the sender's word where it has a
    field of its own for that; else it is one of the labels.
    """

    name: str
    labels: Mapping[str, str]
    resolved: bool
    starts_at_ns: int = 0
    ends_at_ns: int = 0
    keeps_start: bool = False
    severity: str = ""
    user: str = ""
    hints: Mapping[str, str] = NOTHING
    summary: str = ""
    description: str = ""
    links: Mapping[str, str] = NOTHING


@dataclass(frozen=True, slots=True)
class Rejection:
    """What cannot become an alarm. ``reason`` is one of ``wire.messages.REASONS``, ``detail`` one
    line for a person, ``body`` what was received."""

    reason: str
    detail: str
    body: bytes


@dataclass(frozen=True, slots=True)
class NoAlarm:
    """What is no alarm's news, and is not wrong either, such as a sender's test message; so many
    of them."""

    why: str
    count: int = 1


Found: TypeAlias = Alert | Rejection | NoAlarm


class UnreadableBody(ValueError):
    """A body that is not its sender's format at all; says why."""


def rejected(reason: str, detail: str, fields: Any) -> Rejection:
    """Of an alert as it was decoded."""
    try:
        body = orjson.dumps(fields)
    except TypeError:  # it reads lists within lists four times as deep as it writes them
        try:
            body = json.dumps(fields).encode()
        except RecursionError:
            body = b"null"
    return Rejection(reason, detail, body)


def text_in(fields: Mapping[str, Any], *names: str) -> str:
    """The first of these fields that holds text, without blanks around it; else nothing."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and (text := value.strip()):
            return text
    return ""


_TEXT = frozenset((str,))


def texts_of(value: Any) -> dict[str, str]:
    """An object of texts; numbers and truth values as text, anything else is left out.

    Raises TypeError when it is there and no object.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError("is not an object")
    if {*map(type, value.values())} <= _TEXT:
        return value
    found = {}
    for name, one in value.items():
        if isinstance(one, str):
            found[name] = one
        elif isinstance(one, bool):
            found[name] = "true" if one else "false"
        elif isinstance(one, int | float):
            found[name] = str(one)
    return found
