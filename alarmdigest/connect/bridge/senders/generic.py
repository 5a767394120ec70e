"""The bridge's own format, for whoever writes a sender: docs/bridge.md describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from alarmdigest.connect.bridge.alerts import (
    Alert,
    Found,
    Refusal,
    UnreadableBody,
    text_in,
    texts_of,
)
from alarmdigest.connect.bridge.sender_times import any_time

RESOLVED = ("resolved", "cleared", "clear", "ok")
FIRING = ("firing", "active", "problem")
# A status that says the severity as well.
SEVERE = ("warning", "critical")


def read(body: Any, extra: Mapping[str, str]) -> Iterator[Found]:
    """One alert, a list of them, or an object with a list ``alerts``. Raises UnreadableBody."""
    alerts = body.get("alerts", [body]) if isinstance(body, dict) else body
    if not isinstance(alerts, list):
        raise UnreadableBody("it is neither an alert nor a list of alerts")
    for fields in alerts:
        yield _alert(fields, extra)


def _alert(fields: Any, extra: Mapping[str, str]) -> Found:
    if not isinstance(fields, dict):
        return Refusal("schema", "an alert must be a JSON object", orjson.dumps(fields))
    try:
        labels, links = texts_of(fields.get("labels")), texts_of(fields.get("links"))
    except TypeError:
        return Refusal("schema", "labels and links must be objects", orjson.dumps(fields))
    name, status = text_in(fields, "name"), text_in(fields, "status").lower()
    if not name:
        return Refusal("schema", "name is missing", orjson.dumps(fields))
    if status not in (*RESOLVED, *FIRING, *SEVERE):
        words = ", ".join((FIRING[0], RESOLVED[0], *SEVERE))
        return Refusal("status", f"status {status[:40]!r} is none of {words}", orjson.dumps(fields))
    at_ns = any_time(fields.get("at"))
    user = {"user": user} if (user := text_in(fields, "user")) else {}
    return Alert(
        name=name,
        labels=labels,
        resolved=status in RESOLVED,
        starts_at_ns=any_time(fields.get("starts_at")) or at_ns,
        ends_at_ns=any_time(fields.get("ends_at")) or at_ns,
        severity=text_in(fields, "severity") or (status if status in SEVERE else ""),
        hints={**extra, **user},
        summary=text_in(fields, "summary"),
        description=text_in(fields, "description"),
        links=links,
    )
