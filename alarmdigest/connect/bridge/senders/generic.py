"""The bridge's own format, for whoever writes a sender: docs/bridge.md describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alarmdigest.connect.bridge.alerts import (
    Alert,
    Found,
    UnreadableBody,
    rejected,
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
        return rejected("schema", "an alert must be a JSON object", fields)
    try:
        labels, links = texts_of(fields.get("labels")), texts_of(fields.get("links"))
    except TypeError:
        return rejected("schema", "labels and links must be objects", fields)
    name, status = text_in(fields, "name"), text_in(fields, "status").lower()
    if not name:
        return rejected("schema", "name is missing", fields)
    if status not in (*RESOLVED, *FIRING, *SEVERE):
        words = ", ".join((FIRING[0], RESOLVED[0], *SEVERE))
        return rejected("status", f"status {status[:40]!r} is none of {words}", fields)
    at_ns = any_time(fields.get("at"))
    return Alert(
        name=name,
        labels=labels,
        resolved=status in RESOLVED,
        starts_at_ns=any_time(fields.get("starts_at")) or at_ns,
        ends_at_ns=any_time(fields.get("ends_at")) or at_ns,
        keeps_start="starts_at" in fields or "ends_at" in fields,
        severity=text_in(fields, "severity") or (status if status in SEVERE else ""),
        user=text_in(fields, "user") or extra.get("user", ""),
        hints=extra,
        summary=text_in(fields, "summary"),
        description=text_in(fields, "description"),
        links=links,
    )
