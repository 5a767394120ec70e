"""The settings file: TOML, flat, with the names of the options as keys."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from alarmdigest.runtime import pipes
from alarmdigest.settings.layers import Given, Layer, Level
from alarmdigest.settings.unknown_variables import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


MAX_BYTES = 1024 * 1024


def read_file(file: Path, known: Collection[str], problems: list[str]) -> Layer:
    """What the file sets, of the ``known`` fields; what is wrong is added to ``problems``."""
    layer: Layer = {}
    try:
        text = pipes.read(file, MAX_BYTES).decode()
        table = tomllib.loads(text)
    except OSError as error:
        problems.append(f"cannot read the settings file {file}: {error.strerror}")
        return layer
    except UnicodeDecodeError:
        problems.append(f"{file} is not text in UTF-8")
        return layer
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{file} is no TOML: {error}")
        return layer
    for key, value in table.items():
        name, place = key.replace("-", "_"), f"{file}:{_line_of(key, text)}"
        if name not in known:
            problems.append(f"{place}: there is no setting {key!r}{nearest(name, known)}")
        elif name in layer:
            problems.append(f"{place}: {key!r} was set before, at {layer[name].origin}")
        elif (written := _text_of(value, name)) is None:
            problems.append(f"{place}: {name}: write the value as text, in quotes")
        else:
            layer[name] = Given(written, Level.FILE, place)
    return layer


def _text_of(value: object, name: str) -> str | None:
    """The value as an option would have it; None where an option has no such thing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list) and name == "server" and all(isinstance(one, str) for one in value):
        return ",".join(value)
    return None


def _line_of(key: str, text: str) -> int:
    """Where a key of the outermost table stands; tomllib does not say."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    lines = enumerate(text.splitlines(), start=1)
    return next((number for number, line in lines if pattern.match(line)), 1)
