"""What the ``nats`` command line tool knows of a server: its variables and its contexts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from alarmdigest.settings.layers import Given, Layer, Level
from alarmdigest.settings.options import SettingsError

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


def context_file(name: str, environment: Mapping[str, str]) -> Path:
    """Where the tool keeps the context of that name. Raises SettingsError."""
    if not name or "/" in name or name.startswith("."):
        raise SettingsError(f"{name!r} is no name of a context")
    base = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "nats", "context", f"{name}.json")


def read_context(file: Path) -> Layer:
    """What a context sets. Raises SettingsError also for a key that we could not honour."""
    try:
        context = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the context {file}: {error.strerror}") from None
    except ValueError:
        raise SettingsError(f"the context {file} is no JSON") from None
    if not isinstance(context, dict):
        raise SettingsError(f"the context {file} is no object of keys")
    layer: Layer = {}
    for key, value in context.items():
        if not value or key in IDLE_KEYS:
            continue
        if key not in CONTEXT_KEYS:
            raise SettingsError(f"{file}: {key} is set, which alarmdigest cannot honour")
        if not isinstance(value, (str, bool)):
            raise SettingsError(f"{file}: {key} is neither text nor true")
        text = value if isinstance(value, str) else "true"
        layer[CONTEXT_KEYS[key]] = Given(text, Level.CONTEXT, f"{file}, {key}")
    return layer
