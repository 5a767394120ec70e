"""A settings file of tables in TOML: each key read by its reader, each mistake one line."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alarmdigest.runtime import pipes
from alarmdigest.settings import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE_BYTES = 1024 * 1024

Readers = Mapping[str, Mapping[str, Callable[[Any], Any]]]
"""By table and key. A reader raises ValueError for what makes no sense."""


def read_tables(file: Path, readers: Readers) -> dict[str, dict[str, Any]]:
    """The values that the file has, by table and key. Raises SettingsError, a line for each."""
    found: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for title, table in read_document(file).items():
        if title not in readers or not isinstance(table, dict):
            problems.append(f"{file}: there is no table [{title}]{_like(title, readers)}")
            continue
        found[title], wrong = read_table(f"{file}: [{title}]", table, readers[title])
        problems += wrong
    if problems:
        raise SettingsError(*problems)
    return found


def read_table(
    where: str, table: Mapping[str, Any], readers: Mapping[str, Callable[[Any], Any]]
) -> tuple[dict[str, Any], list[str]]:
    """The values of one table, and a line for each mistake, which begins with ``where``."""
    found: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in table.items():
        if (read := readers.get(key)) is None:
            problems.append(f"{where} has no {key}{_like(key, readers)}")
            continue
        try:
            found[key] = read(value)
        except ValueError as error:
            problems.append(f"{where} {key}: {error}")
    return found, problems


def read_document(file: Path, most_bytes: int = MAX_FILE_BYTES) -> dict[str, Any]:
    """What the file holds, unchecked. Raises SettingsError."""
    try:
        data = pipes.read(file, most_bytes + 1)
        if len(data) > most_bytes:
            raise SettingsError(f"{file} has more than {most_bytes} bytes")
        document: dict[str, Any] = tomllib.loads(data.decode())
        return document
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file} is not text in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file} is no TOML: {error}") from error
    except RecursionError as error:
        raise SettingsError(f"{file} is nested too deeply") from error


def _like(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; do you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is no text")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.80} is neither true nor false")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of texts; one text is a list of one."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{value!r:.80} is no list of texts")
    return tuple(value)


def of_text(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A reader of texts, such as those of settings."""
    return lambda value: read(text(value))
