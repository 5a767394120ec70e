"""Netdata Cloud's webhook: alerts, nodes that can be reached or not, and its test message.

Format: learn.netdata.cloud/docs/alerting/notifications/centralized-cloud-notifications/webhook.
Earlier versions call some fields ``alarm`` and ``alarm_url``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from alarmdigest.connect.bridge.alerts import (
    Alert,
    Found,
    NoAlarm,
    UnreadableBody,
    rejected,
    text_in,
)
from alarmdigest.connect.bridge.sender_times import any_time

SEVERITIES = ("warning", "critical", "clear")
# Those that name the node are in no document, and used where they come.
IDENTITY = ("chart", "context", "family", "space", "host", "node", "hostname")
HINTS = ("class", "component", "type")
UNREACHABLE = "node unreachable"


def read(body: Any, extra: Mapping[str, str]) -> Iterator[Found]:
    """Raises UnreadableBody."""
    if not isinstance(body, dict):
        raise UnreadableBody("the body must be one JSON object")
    if isinstance(body.get("status"), dict):
        yield _reachability(body, extra)
    elif "severity" in body or text_in(body, "alert", "alarm"):
        yield _alert(body, extra)
    elif "token" in body or "message" in body:
        yield NoAlarm("test")
    else:
        raise UnreadableBody("it is none of Netdata Cloud's messages")


def _alert(body: dict[str, Any], extra: Mapping[str, str]) -> Found:
    name, severity = text_in(body, "alert", "alarm"), text_in(body, "severity").lower()
    if not name:
        return rejected("schema", "alert is missing", body)
    if severity not in SEVERITIES:
        detail = f"severity {severity[:40]!r} is none of {', '.join(SEVERITIES)}"
        return rejected("status", detail, body)
    at_ns = any_time(body.get("date"))
    link = text_in(body, "alert_url", "alarm_url")
    return Alert(
        name=name,
        labels={label: text for label in IDENTITY if (text := text_in(body, label))},
        resolved=severity == "clear",
        starts_at_ns=at_ns,
        ends_at_ns=at_ns,
        severity=severity,
        user=extra.get("user", ""),
        hints={**_hints(body), **extra},
        summary=text_in(body, "message"),
        description=text_in(body, "info"),
        links={"source": link} if link else {},
    )


def _reachability(body: dict[str, Any], extra: Mapping[str, str]) -> Found:
    host, reachable = text_in(body, "host"), body["status"].get("reachable")
    if not host or not isinstance(reachable, bool):
        detail = "a node's news needs host and status.reachable"
        return rejected("schema", detail, body)
    link = text_in(body, "url")
    return Alert(
        name=UNREACHABLE,
        labels={"host": host},
        resolved=reachable,
        severity="critical",
        user=extra.get("user", ""),
        hints={**_hints(body), **extra},
        summary=text_in(body, "message"),
        description=text_in(body["status"], "text"),
        links={"source": link} if link else {},
    )


def _hints(body: Mapping[str, Any]) -> dict[str, str]:
    hints = {hint: text for hint in HINTS if (text := text_in(body, hint))}
    rooms = body.get("Rooms", body.get("rooms"))
    if isinstance(rooms, dict) and rooms:
        hints["rooms"] = ",".join(str(room) for room in rooms)
    return hints
