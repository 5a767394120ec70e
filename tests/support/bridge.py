"""The real bridge as a process of its own, and what its senders would post."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alarmdigest.nats.answers import PubAck, StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.stream_configs import make_stream_configs
from support.nats_server import NatsServer
from support.service import ServiceProcess


class BridgeProcess(ServiceProcess):
    """``python -m alarmdigest bridge`` on a server, HTTP on a free port.

    ``rules`` is the text of its file. ``program`` replaces ``-m alarmdigest``.
    """

    def __init__(
        self,
        *servers: str,
        rules: str = "",
        options: Sequence[str] = (),
        program: Sequence[str] = ("-m", "alarmdigest"),
        environment: dict[str, str] | None = None,
        listen: str = "127.0.0.1:0",
    ) -> None:
        super().__init__(program=program, environment=environment)
        self.rules_file = Path(self._folder.name) / "bridge.toml"
        self.rules_file.write_text(rules, "utf-8")
        self._arguments = [sys.executable, *program, "bridge", "--listen", listen]
        self._arguments += ["--rules", str(self.rules_file)]
        for server in servers:
            self._arguments += ["--server", server]
        self._arguments += options

    @property
    def address(self) -> tuple[str, int]:
        where = urlsplit(self.wait_for_log(r"on=(https?://\S+)")[1])
        return where.hostname or "", where.port or 0

    def post(
        self, path: str, body: Any, headers: dict[str, str] | None = None, timeout: float = 20.0
    ) -> tuple[int, Any]:
        """Status and decoded answer. ``body`` is sent as it is if it is bytes, else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(*self.address, timeout=timeout)
        try:
            connection.request("POST", path, data, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


def alert(
    name: str = "HighLatency",
    *,
    status: str = "firing",
    starts_at: str = "2026-11-28T10:00:00.123Z",
    ends_at: str = "0001-01-01T00:00:00Z",
    annotations: dict[str, str] | None = None,
    **labels: str,
) -> dict[str, Any]:
    """One alert as Alertmanager has it."""
    return {
        "status": status,
        "labels": {"alertname": name, **labels},
        "annotations": annotations or {},
        "startsAt": starts_at,
        "endsAt": ends_at,
        "generatorURL": "http://prometheus:9090/graph",
        "fingerprint": "5ef77f1f8a3ecf8d",
    }


def webhook(*alerts: dict[str, Any], receiver: str = "alarmdigest") -> dict[str, Any]:
    """Version 4 of Alertmanager's format."""
    return {
        "receiver": receiver,
        "status": "firing",
        "alerts": list(alerts),
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "version": "4",
        "groupKey": "{}:{}",
        "truncatedAlerts": 0,
    }


class Streams:
    """The service's three streams on a server, without a service, and what is in them."""

    def __init__(self, server: NatsServer, *, create: bool = True, url: str = "") -> None:
        self._connection = Connection(url or server.url, name="test-streams")
        self._connection.connect()
        self.js = JetStream(self._connection)
        if create:
            self.create()

    def create(self) -> None:
        """Those that are not there."""
        for config in make_stream_configs():
            self.js.create_stream(config.api_config())

    def close(self) -> None:
        self._connection.close()

    def info(self, stream: str) -> StreamInfo:
        info = self.js.stream_info(stream)
        assert info is not None, f"no stream {stream}"
        return info

    def publish(self, subject: str, body: bytes) -> PubAck:
        return self.js.publish(subject, body)

    def messages(self, stream: str) -> list[tuple[bytes, bytes]]:
        """Headers and body of all that it holds, in order."""
        found: list[tuple[bytes, bytes]] = []
        first = 1
        while more := self.js.leader_messages(stream, first):
            found += [(headers, body) for _sequence, headers, body in more]
            first = more[-1][0] + 1
        return found

    def bodies(self, stream: str) -> list[Any]:
        return [json.loads(body) for _headers, body in self.messages(stream)]

    def events(self) -> list[tuple[str, str, str, str]]:
        """(user, alarm, status, changed at) of each event."""
        return [
            (one["UserID"], one["AlarmID"], one["Status"], one["ChangedAt"])
            for one in self.bodies("ALARMS")
            if "AlarmID" in one
        ]

    def purge(self, stream: str) -> None:
        self.js.request(f"STREAM.PURGE.{stream}")
