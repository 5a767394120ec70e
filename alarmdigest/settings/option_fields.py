"""How a setting is declared: a field of a dataclass that knows how its text is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from alarmdigest.settings.readers import boolean


def option(read: Callable[[str], Any], default: str, meta: str, help_text: str) -> Any:
    """A settings field: how to read its text, its default as text, its placeholder, its help."""
    return field(
        default_factory=lambda: read(default),
        metadata={"read": read, "default": default, "meta": meta, "help": help_text},
    )


def flag(help_text: str) -> Any:
    """A settings field that is off unless asked for."""
    return field(default=False, metadata={"read": boolean, "help": help_text})


def secret(help_text: str) -> Any:
    """A settings field that is no option: what a command line holds, everybody can read."""
    return field(default="", repr=False, metadata={"read": str, "help": help_text})
