"""Which service this is, how it is set, and whom it is connected to. No secrets."""

from __future__ import annotations

import os
import platform
import socket
import time
from dataclasses import Field, fields
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.url import redacted
from alarmdigest.pipeline.service import Service
from alarmdigest.settings import SECRETS, Settings, duration

MASK = "********"
_STARTED_NS = time.time_ns()


def identity(settings: Settings) -> dict[str, Any]:
    """Host, process and data directory, and the settings that are not as they are by default."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "data_dir": str(settings.data_dir.absolute()),
        "python": platform.python_version(),
        "started_at": timestamps.to_text(_STARTED_NS),
        "settings": _changed(settings),
    }


def _changed(settings: Settings) -> dict[str, str]:
    default = Settings()
    return {
        item.name: _shown(item, getattr(settings, item.name))
        for item in fields(Settings)
        if getattr(settings, item.name) != getattr(default, item.name)
    }


def _shown(item: Field[Any], value: Any) -> str:
    if item.name in SECRETS or item.name == "trace":  # which is somebody's id
        return MASK
    if item.name == "server":
        return ",".join(map(redacted, value))
    if item.name == "cassandra":
        return ",".join(f"{host}:{port}" for host, port in value)
    if item.name == "http":
        return "off" if value is None else str(value.url.removeprefix("http://"))
    if item.metadata["read"] is duration:
        return f"{value / 1e9:g}s"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def connections(service: Service) -> list[dict[str, Any]]:
    """One for each of ours, those that have never come about as well."""
    lasting = service.reconnectors.lasting(in_group=service.replica is not None)
    return [_connection(name, reconnector) for name, reconnector in lasting.items()]


def _connection(name: str, reconnector: Reconnector) -> dict[str, Any]:
    opened = reconnector.opened
    info = opened.info if opened is not None else {}
    connected = opened is not None and opened.is_open
    return {
        "name": name,
        "connected": connected,
        "server": opened.url if opened is not None else None,
        "server_name": info.get("server_name"),
        "server_version": info.get("version"),
        "cluster": info.get("cluster"),
        "reconnects": reconnector.reconnects,
        "last_error": reconnector.last_error if not connected else None,
    }
