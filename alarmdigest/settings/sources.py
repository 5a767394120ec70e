"""Where settings are looked for. Each source becomes a layer: the texts it has, by setting.

What is wrong with a source is added to ``problems``, one line each.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from alarmdigest.runtime import pipes
from alarmdigest.settings.options import (
    LOCATORS,
    LOGIN_NAMES,
    NAMES,
    VARIABLE_PREFIX,
    flag_of,
    variable,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_FILE_BYTES = 1024 * 1024
# What the `nats` command line tool calls our settings: its variables, and the keys of its contexts.
NATS_VARIABLES_AND_KEYS = {
    "server": ("NATS_URL", "url"),
    "user": ("NATS_USER", "user"),
    "password": ("NATS_PASSWORD", "password"),
    "token": ("NATS_TOKEN", "token"),
    "creds": ("NATS_CREDS", "creds"),
    "nkey": ("NATS_NKEY", "nkey"),
    "tls_cert": ("NATS_CERT", "cert"),
    "tls_key": ("NATS_KEY", "key"),
    "tls_ca": ("NATS_CA", "ca"),
    "tls_first": ("", "tls_first"),
    "inbox_prefix": ("", "inbox_prefix"),
    "js_domain": ("", "jetstream_domain"),
    "context": ("NATS_CONTEXT", ""),
}
CONTEXT_KEYS = {key: name for name, (_, key) in NATS_VARIABLES_AND_KEYS.items() if key}
# Keys that change nothing about a connection.
IGNORED_CONTEXT_KEYS = ("description", "color_scheme")

# Other variables of ours: of tests and benchmarks, of the build (setup.py), `bridge` and `deliver`.
NO_SETTINGS = re.compile(
    r"TEST_\w*|BENCH_\w*|FAILPOINT|DEBUG|TRACE|ANNOTATE|SANITIZE|BRIDGE_RULES|DELIVER_ROUTES"
)
# What Kubernetes tells every container about a Service called alarmdigest, or alarmdigest-this.
SERVICE = re.compile(r"(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|(\w+_)?PORT_\d+_(TCP|UDP|SCTP)(_\w+)?")
# Its ..._PORT is a URL, which a person who mistypes --http would not write.
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


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


def read_options(texts: Mapping[str, str]) -> Layer:
    """What the command line sets: ``texts`` by name of the setting."""
    return {name: Given(text, Level.FLAG, flag_of(name)) for name, text in texts.items()}


def read_variables(environment: Mapping[str, str]) -> Layer:
    """What our variables set. An empty one counts as not set, but can turn off a weaker login."""
    return {
        name: Given(text, Level.VARIABLE, variable(name))
        for name in (*NAMES, *LOCATORS)
        if (text := environment.get(variable(name))) or (text == "" and name in LOGIN_NAMES)
    }


def read_nats_variables(environment: Mapping[str, str]) -> Layer:
    """What the tool's variables set; an empty one counts as not set, as it does there."""
    return {
        name: Given(text, Level.NATS_VARIABLE, nats_variable)
        for name, (nats_variable, _) in NATS_VARIABLES_AND_KEYS.items()
        if nats_variable and (text := environment.get(nats_variable))
    }


def read_file(file: Path, problems: list[str]) -> Layer:
    """What the settings file sets: TOML, flat, with the names of the options as keys."""
    try:
        text = pipes.read(file, MAX_FILE_BYTES).decode()
        table = tomllib.loads(text)
    except OSError as error:
        problems.append(f"cannot read the settings file {file}: {error.strerror}")
        return {}
    except UnicodeDecodeError:
        problems.append(f"{file} is not text in UTF-8")
        return {}
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{file} is no TOML: {error}")
        return {}
    layer: Layer = {}
    known = (*NAMES, "context")
    for key, value in table.items():
        name, place = key.replace("-", "_"), f"{file}:{_line_of(key, text)}"
        if name not in known:
            problems.append(f"{place}: there is no setting {key!r}{_nearest(name, known)}")
        elif name in layer:
            problems.append(f"{place}: {key!r} was set before, at {layer[name].origin}")
        elif (written := _as_option(value, name)) is None:
            problems.append(f"{place}: {name}: write the value as text, in quotes")
        else:
            layer[name] = Given(written, Level.FILE, place)
    return layer


def _as_option(value: object, name: str) -> str | None:
    """The value as an option would have it; None where an option has no such thing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list) and name in ("server", "cassandra"):
        return ",".join(value) if all(isinstance(one, str) for one in value) else None
    return None


def _line_of(key: str, text: str) -> int:
    """The line of a key of the outermost table; tomllib does not say."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    lines = enumerate(text.splitlines(), start=1)
    return next((number for number, line in lines if pattern.match(line)), 1)


def context_file(name: str, environment: Mapping[str, str]) -> Path | None:
    """Where the ``nats`` tool keeps the context of that name; None if none can have it."""
    if "/" in name or name.startswith("."):
        return None
    base = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "nats", "context", f"{name}.json")


def read_context(file: Path, problems: list[str]) -> Layer:
    """What a context of the ``nats`` tool sets. A key that we cannot honour is a problem, too."""
    try:
        context = json.loads(file.read_text("utf-8"))
    except OSError as error:
        problems.append(f"cannot read the context {file}: {error.strerror}")
        return {}
    except ValueError:
        problems.append(f"the context {file} is no JSON")
        return {}
    if not isinstance(context, dict):
        problems.append(f"the context {file} is no object of keys")
        return {}
    layer: Layer = {}
    for key, value in context.items():
        if not value or key in IGNORED_CONTEXT_KEYS:
            continue
        if key not in CONTEXT_KEYS:
            problems.append(f"{file}: {key} is set, which alarmdigest cannot honour")
        elif not isinstance(value, (str, bool)):
            problems.append(f"{file}: {key} is neither text nor true")
        else:
            text = value if isinstance(value, str) else "true"
            layer[CONTEXT_KEYS[key]] = Given(text, Level.CONTEXT, f"{file}, {key}")
    return layer


def unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """A line of warning for each variable that looks like a setting of ours and is none."""
    # Without the prefix, by which everything is alike.
    known = [variable(name).removeprefix(VARIABLE_PREFIX) for name in (*NAMES, *LOCATORS)]
    for name, text in sorted(environment.items()):
        rest = name.removeprefix(VARIABLE_PREFIX)
        if rest == name or rest in known or NO_SETTINGS.fullmatch(rest) or SERVICE.fullmatch(rest):
            continue
        if re.fullmatch(r"(\w+_)?PORT", rest) and SERVICE_URL.match(text):
            continue
        hint = _nearest(rest, known, before=VARIABLE_PREFIX)
        yield f"the variable {name} is set, and there is no such setting{hint}"


def _nearest(name: str, known: Collection[str], *, before: str = "") -> str:
    """``; did you mean 'this'?``, or nothing if none of them is alike."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {before + found[0]!r}?" if found else ""
