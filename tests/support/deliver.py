"""The real deliver as a process of its own, and digests as the service would publish them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alarmdigest._ext import timestamps
from support.bridge import Streams
from support.nats_server import NatsServer
from support.service import ServiceProcess

BEGAN_NS = 1_796_000_000 * 10**9
# Retries within a test's patience, and a lease that the next process need not wait for.
QUICK = """
[consumer]
ack_wait = "5s"
[storage]
lease = "1s"
[sending]
first_pause = "100ms"
longest_pause = "500ms"
"""


class DeliverProcess(ServiceProcess):
    """``python -m alarmdigest deliver`` on a server, HTTP on a free port. ``routes`` is the text of
    its file."""

    def __init__(
        self,
        *servers: str,
        routes: str,
        options: Sequence[str] = (),
        program: Sequence[str] = ("-m", "alarmdigest"),
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__(program=program, environment=environment)
        self.routes_file = Path(self._folder.name) / "deliver.toml"
        self.write_routes(routes)
        self._arguments = [sys.executable, *program, "deliver", "--listen", "127.0.0.1:0"]
        self._arguments += ["--routes", str(self.routes_file)]
        for server in servers:
            self._arguments += ["--server", server]
        self._arguments += options

    def write_routes(self, routes: str) -> None:
        self.routes_file.write_text(routes, "utf-8")


def routes(targets: dict[str, str], *rest: str, quick: str = QUICK) -> str:
    """A file in which everybody gets everything by each of these targets (name, URL)."""
    tables = [f'[targets.{name}]\nurl = "{url}"\n' for name, url in targets.items()]
    names = json.dumps(list(targets))
    return "\n".join([quick, *tables, *rest, f'[[routes]]\nusers = ["*"]\ntargets = {names}\n'])


def digest(user: str, *alarms: str, status: str = "CRITICAL") -> dict[str, Any]:
    return {
        "UserID": user,
        "ActiveAlarms": [
            {
                "AlarmID": alarm,
                "Status": status,
                "LatestChangedAt": timestamps.to_text(BEGAN_NS + number),
            }
            for number, alarm in enumerate(alarms)
        ],
    }


class Digests:
    """Publishes digests into their stream, and looks at what became of them."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._count = 0

    def publish(self, user: str, *alarms: str, request: str = "", status: str = "CRITICAL") -> str:
        """Its id."""
        self._count += 1
        number = f"{self._count:032x}"
        lines = [f"Nats-Msg-Id: {number}"]
        if request:
            lines.append(f"Alarmdigest-Request: {request}")
        headers = "NATS/1.0\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
        body = json.dumps(digest(user, *alarms, status=status)).encode()
        self._streams.js.publish("AlarmDigest", body, headers.encode())
        return number

    def reconnect(self, server: NatsServer) -> None:
        """After the server's restart."""
        self._streams.close()
        self._streams = Streams(server, create=False)

    def unacknowledged(self) -> int:
        """Delivered or not: what is not acknowledged."""
        info = self._streams.js.request("CONSUMER.INFO.ALARM_DIGESTS.alarmdigest-deliver")
        return int(info["num_ack_pending"]) + int(info["num_pending"])

    def dead_letters(self) -> list[dict[str, Any]]:
        if self._streams.js.stream_info("ALARM_UNDELIVERED") is None:
            return []
        return self._streams.bodies("ALARM_UNDELIVERED")
