"""What our sender for the Netdata agent posts (``deploy/netdata``): the variables of its
``custom_sender``, see alarm-notify.sh of Netdata.

One object, or a list of them: ``{"netdata": 1, "name": …, "chart": …, "host": …, "status": …,
"when": seconds, "event_id": …, …}``, all values as text.
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
from alarmdigest.connect.bridge.sender_times import unix

ACTIVE = ("WARNING", "CRITICAL")
# An alarm that Netdata has removed, with its chart, is over.
OVER = ("CLEAR", "REMOVED")
# Not known yet, or not computable: no news.
UNKNOWN = ("UNINITIALIZED", "UNDEFINED")
IDENTITY = ("host", "chart", "family")
HINTS = ("roles", "component", "type", "classification")


def read(body: Any, extra: Mapping[str, str]) -> Iterator[Found]:
    """Raises UnreadableBody."""
    events = body if isinstance(body, list) else [body]
    if not events or not all(isinstance(one, dict) and "netdata" in one for one in events):
        raise UnreadableBody("it is not what deploy/netdata sends")
    for fields in events:
        yield _alert(fields, extra)


def _alert(fields: dict[str, Any], extra: Mapping[str, str]) -> Found:
    name, status = text_in(fields, "name"), text_in(fields, "status").upper()
    if not name:
        return rejected("schema", "name is missing", fields)
    if status in UNKNOWN:
        return NoAlarm(status.lower())
    if status not in ACTIVE and status not in OVER:
        return rejected("status", f"status {status[:40]!r} is none of Netdata's", fields)
    at_ns = unix(fields.get("when"))
    event = fields.get("event_id")
    if at_ns and isinstance(event, str) and event.isascii() and event.isdigit():
        # Netdata tells whole seconds. Within one, the number of the alarm's event has the order.
        at_ns += int(event[-9:])
    links = {"source": link} if (link := text_in(fields, "goto_url")) else {}
    value = text_in(fields, "value_string", "value")
    return Alert(
        name=name,
        labels={label: text for label in IDENTITY if (text := text_in(fields, label))},
        resolved=status in OVER,
        starts_at_ns=at_ns,
        ends_at_ns=at_ns,
        severity=status,
        user=text_in(fields, "user") or extra.get("user", ""),
        hints={**{hint: text for hint in HINTS if (text := text_in(fields, hint))}, **extra},
        summary=f"{text_in(fields, 'summary') or name.replace('_', ' ')} = {value}".rstrip("= "),
        description=text_in(fields, "info"),
        links=links,
    )
