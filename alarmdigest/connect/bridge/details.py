"""What a person may want to read about an alarm, for the key-value bucket ALARM_DETAILS.

The wire carries ids only. Whoever renders a message looks an alarm up (``connect/detail_keys.py``),
or does without: docs/wire.md has the format.
"""

from __future__ import annotations

from typing import Any

import orjson

from alarmdigest.connect.bridge.alerts import Alert

MAX_SUMMARY_CHARS = 500
MAX_DESCRIPTION_CHARS = 4000
MAX_LINK_CHARS = 2000
MAX_LABELS = 64
MAX_LABEL_CHARS = 500
MAX_BYTES = 16 * 1024
WEB = ("https://", "http://")


def details_of(alert: Alert) -> dict[str, Any]:
    """Those of an alert, without the ids; texts cut to what a mail can show."""
    labels = alert.labels
    if len(labels) > MAX_LABELS or max(map(len, labels.values()), default=0) > MAX_LABEL_CHARS:
        few = list(labels.items())[:MAX_LABELS]
        labels = {name: cut(value, MAX_LABEL_CHARS) for name, value in few}
    # What anybody may write becomes a link in somebody's mail: nothing but web pages.
    links = {
        name: link
        for name, link in alert.links.items()
        if len(link) <= MAX_LINK_CHARS and link.startswith(WEB)
    }
    return {
        "name": cut(alert.name, MAX_SUMMARY_CHARS),
        "summary": cut(alert.summary, MAX_SUMMARY_CHARS),
        "description": cut(alert.description, MAX_DESCRIPTION_CHARS),
        "labels": labels,
        "links": links,
    }


def packed(user_id: str, alarm_id: str, details: dict[str, Any]) -> bytes:
    """The entry's value, of at most MAX_BYTES: without its labels, or without its description too,
    if it must be."""
    entry = {"UserID": user_id, "AlarmID": alarm_id, **details}
    value = orjson.dumps(entry)
    if len(value) <= MAX_BYTES:
        return value
    for name, empty in (("labels", {}), ("description", ""), ("links", {})):
        if len(value) <= MAX_BYTES:
            break
        entry[name] = empty
        value = orjson.dumps(entry)
    return value


def cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "\u2026"
