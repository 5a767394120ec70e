"""The command ``check-config``: which settings count, and who has set them."""

from __future__ import annotations

import json
from dataclasses import Field, fields
from typing import Any

from alarmdigest import exit_codes
from alarmdigest.nats.connection import redacted
from alarmdigest.nats.link import Link
from alarmdigest.settings import SECRETS, Effective, Settings
from alarmdigest.settings.options import default_of

MASK = "********"


def check_config(effective: Effective, *, as_json: bool) -> int:
    """Report on stdout; the exit code. Raises UrlError and LoginError for what cannot be used."""
    settings = effective.settings
    Link(list(settings.server), name="alarmdigest")
    warnings = [*effective.warnings, *settings.login.check()]
    rows = [(item.name, *_shown(item, effective)) for item in fields(Settings)]
    if as_json:
        found = {name: {"value": value, "origin": origin} for name, value, origin in rows}
        print(json.dumps({"settings": found, "warnings": warnings}, indent=2))
        return exit_codes.CLEAN
    name_width = max(len(name) for name, _, _ in rows)
    value_width = min(max(len(value) for _, value, _ in rows), 40)
    for name, value, origin in rows:
        print(f"{name:<{name_width}}  {value:<{value_width}}  {origin}")
    for warning in warnings:
        print(f"warning: {warning}")
    return exit_codes.CLEAN


def _shown(item: Field[Any], effective: Effective) -> tuple[str, str]:
    """Value and origin: as it was written, so that it can be written so again, but no secret."""
    given = effective.given.get(item.name)
    if given is None:
        return default_of(item), "default"
    if item.name in SECRETS:
        return MASK if given.text else "", given.origin
    if item.name == "server":
        return ",".join(redacted(url) for url in effective.settings.server), given.origin
    return given.text, given.origin
