"""What the ``nats`` command line tool knows of a server: its variables and its contexts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from alarmdigest.settings.layers import Given, Layer, Level

VARIABLES = {
    "NATS_URL": "server",
    "NATS_USER": "user",
    "NATS_PASSWORD": "password",
    "NATS_TOKEN": "token",
    "NATS_CREDS": "creds",
    "NATS_NKEY": "nkey",
    "NATS_CERT": "tls_cert",
    "NATS_KEY": "tls_key",
    "NATS_CA": "tls_ca",
}
CONTEXT_KEYS = {
    "url": "server",
    "user": "user",
    "password": "password",
    "token": "token",
    "creds": "creds",
    "nkey": "nkey",
    "cert": "tls_cert",
    "key": "tls_key",
    "ca": "tls_ca",
    "tls_first": "tls_first",
    "inbox_prefix": "inbox_prefix",
    "jetstream_domain": "js_domain",
}
# They change nothing about a connection.
IDLE_KEYS = ("description", "color_scheme")


def read_variables(environment: Mapping[str, str]) -> Layer:
    """What the tool's variables set; an empty one counts as not set, as it does there."""
    return {
        name: Given(text, Level.NATS_VARIABLE, variable)
        for variable, name in VARIABLES.items()
        if (text := environment.get(variable, ""))
    }


def context_file(name: str, environment: Mapping[str, str]) -> Path | None:
    """Where the tool keeps the context of that name; None if none can have it."""
    if not name or "/" in name or name.startswith("."):
        return None
    base = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "nats", "context", f"{name}.json")


def read_context(file: Path, problems: list[str]) -> Layer:
    """What a context sets; what is wrong is added to ``problems``, also a key that we could not
    honour."""
    layer: Layer = {}
    try:
        context = json.loads(file.read_text("utf-8"))
    except OSError as error:
        problems.append(f"cannot read the context {file}: {error.strerror}")
        return layer
    except ValueError:
        problems.append(f"the context {file} is no JSON")
        return layer
    if not isinstance(context, dict):
        problems.append(f"the context {file} is no object of keys")
        return layer
    for key, value in context.items():
        if not value or key in IDLE_KEYS:
            continue
        if key not in CONTEXT_KEYS:
            problems.append(f"{file}: {key} is set, which alarmdigest cannot honour")
        elif not isinstance(value, (str, bool)):
            problems.append(f"{file}: {key} is neither text nor true")
        else:
            text = value if isinstance(value, str) else "true"
            layer[CONTEXT_KEYS[key]] = Given(text, Level.CONTEXT, f"{file}, {key}")
    return layer
