"""The senders that the bridge knows: each a path of the receiver, and how its bodies are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from alarmdigest.connect.bridge.alerts import Found
from alarmdigest.connect.bridge.senders import alertmanager, generic, netdata, netdata_cloud

Reader: TypeAlias = Callable[[Any, Mapping[str, str]], Iterator[Found]]
"""Of a decoded body and the labels of the request's address. Raises UnreadableBody, at the first
step or never."""

SENDERS: Mapping[str, Reader] = {
    "alertmanager": alertmanager.read,
    "grafana": alertmanager.read_grafana,
    "netdata": netdata.read,
    "netdata-cloud": netdata_cloud.read,
    "alerts": generic.read,
}


def sender_of(body: Any) -> str:
    """Whose format a decoded body has, as far as that can be told; ``alerts`` else."""
    if isinstance(body, dict):
        if "alerts" in body and {"groupKey", "version"} & body.keys():
            return "grafana" if {"orgId", "state"} & body.keys() else "alertmanager"
        if "netdata" in body:
            return "netdata"
        if "alerts" not in body and "message" in body and not {"name", "labels"} & body.keys():
            return "netdata-cloud"
    return "alerts"
