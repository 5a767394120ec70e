"""Webhooks of Prometheus Alertmanager (version 4 of its format), and of Grafana alerting.

Formats: prometheus.io/docs/alerting/latest/configuration/#webhook_config and
grafana.com/docs/grafana/latest/alerting/configure-notifications/manage-contact-points/integrations/
webhook-notifier/. Grafana's is Alertmanager's with more fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from alarmdigest.connect.bridge.alerts import (
    Alert,
    Found,
    NoAlarm,
    UnreadableBody,
    rejected,
    text_in,
    texts_of,
)
from alarmdigest.connect.bridge.label_text import matchers_of
from alarmdigest.connect.bridge.sender_times import rfc3339

NAME_LABEL = "alertname"
VERSION = "4"
MAX_TRUNCATED = 10**6
GRAFANA_LINKS = {
    "silence": "silenceURL",
    "dashboard": "dashboardURL",
    "panel": "panelURL",
    "source": "generatorURL",
}


_USUAL = [(character, quote(character)) for character in '{}"=,: ']
_PLAIN = re.compile(r"[\w.~/%-]*", re.ASCII)


def read(body: Any, extra: Mapping[str, str]) -> Iterator[Found]:
    """Alertmanager's. Raises UnreadableBody, also for another version of the format."""
    if isinstance(body, dict) and (version := body.get("version")) not in (VERSION, 4, None):
        raise UnreadableBody(f"version {version!r:.20} of Alertmanager's format, we know {VERSION}")
    external = text_in(body, "externalURL").rstrip("/") if isinstance(body, dict) else ""
    for fields, hints in _alerts_of(body, extra):
        yield _alert(fields, hints, {"source": "generatorURL"}, external)
    yield from _truncated(body)


def read_grafana(body: Any, extra: Mapping[str, str]) -> Iterator[Found]:
    """Grafana's, whatever its version says. Raises UnreadableBody."""
    for fields, hints in _alerts_of(body, extra):
        yield _alert(fields, hints, GRAFANA_LINKS, "")
    yield from _truncated(body)


def _alerts_of(body: Any, extra: Mapping[str, str]) -> Iterator[tuple[Any, Mapping[str, str]]]:
    if not isinstance(body, dict):
        raise UnreadableBody("the body must be one JSON object")
    alerts = body.get("alerts")
    if not isinstance(alerts, list):
        raise UnreadableBody("it has no list `alerts`")
    hints = dict(extra)
    if receiver := text_in(body, "receiver"):
        hints.setdefault("receiver", receiver)
    for fields in alerts:
        yield fields, hints


def _truncated(body: Any) -> Iterator[NoAlarm]:
    """What its sender has left out, for a limit of its own (``max_alerts``)."""
    count = body.get("truncatedAlerts")
    if isinstance(count, int) and count > 0:
        yield NoAlarm("truncated", min(count, MAX_TRUNCATED))


def _alert(
    fields: Any, hints: Mapping[str, str], link_fields: Mapping[str, str], external: str
) -> Found:
    if not isinstance(fields, dict):
        return rejected("schema", "an alert must be a JSON object", fields)
    try:
        labels = texts_of(fields.get("labels"))
        annotations = texts_of(fields.get("annotations"))
    except TypeError:
        return rejected("schema", "labels and annotations must be objects", fields)
    status = fields.get("status")
    if status not in ("firing", "resolved"):
        detail = f"status {status!r:.40} is neither firing nor resolved"
        return rejected("status", detail, fields)
    if not labels:
        return rejected("schema", "it has no labels: nothing tells which alert it is", fields)
    if labels.get(NAME_LABEL) == "TestAlert" and labels.get("instance") == "Grafana":
        return NoAlarm("test")
    others = labels.copy()
    name = others.pop(NAME_LABEL, "")
    links = {title: link for title, key in link_fields.items() if (link := text_in(fields, key))}
    if runbook := text_in(annotations, "runbook_url", "runbook"):
        links["runbook"] = runbook
    if external:
        links["silence"] = _silence_link(external, labels)
    return Alert(
        name=name,
        labels=others,
        resolved=status == "resolved",
        starts_at_ns=rfc3339(fields.get("startsAt")),
        ends_at_ns=rfc3339(fields.get("endsAt")),
        keeps_start=True,
        user=hints.get("user", ""),
        hints=hints,
        summary=text_in(annotations, "summary", "title", "message"),
        description=text_in(annotations, "description"),
        links=links,
    )


def _silence_link(external: str, labels: Mapping[str, str]) -> str:
    """Alertmanager's page for a new silence, filled in."""
    matchers = "{" + matchers_of(labels) + "}"
    return f"{external}/#/silences/new?filter={_quoted(matchers)}"


def _quoted(matchers: str) -> str:
    """As ``quote`` does it, which is the dearest part of an alert; its usual characters quickly."""
    text = matchers.replace("%", "%25")
    for character, code in _USUAL:
        text = text.replace(character, code)
    return text if _PLAIN.fullmatch(text) else quote(matchers)
