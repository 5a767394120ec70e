"""The settings file: TOML, flat, with the names of the options as keys."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from alarmdigest.settings.layers import Given, Layer, Level
from alarmdigest.settings.options import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_file(file: Path, known: Collection[str]) -> Layer:
    """What the file sets, of the ``known`` fields. Raises SettingsError."""
    try:
        text = file.read_text("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is no TOML: {error}") from None
    layer: Layer = {}
    for key, value in table.items():
        name, place = key.replace("-", "_"), f"{file}:{_line_of(key, text)}"
        if name not in known:
            raise SettingsError(f"{place}: there is no setting {key!r}{_nearest(name, known)}")
        if name in layer:
            raise SettingsError(f"{place}: {key!r} was set before, at {layer[name].origin}")
        layer[name] = Given(_text_of(value, name, place), Level.FILE, place)
    return layer


def _text_of(value: object, name: str, place: str) -> str:
    """The value as an option would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list) and name == "server" and all(isinstance(one, str) for one in value):
        return ",".join(value)
    raise SettingsError(f"{place}: {name}: write the value as text, in quotes")


def _line_of(key: str, text: str) -> int:
    """Where a key of the outermost table stands; tomllib does not say."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    lines = enumerate(text.splitlines(), start=1)
    return next((number for number, line in lines if pattern.match(line)), 1)


def _nearest(name: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
