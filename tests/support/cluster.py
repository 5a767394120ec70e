"""Three real ``nats-server``s with JetStream that form one cluster, on the loopback."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from alarmdigest.nats.errors import NatsError
from support.jetstream import asking
from support.nats_server import HOST, NatsServer, free_port
from support.wait import eventually

NODES = 3


class Cluster:
    """``with Cluster() as cluster:`` waits until it has a leader; nodes are ended and started as
    each ``NatsServer`` is."""

    def __init__(self, *, extra: str = "", jetstream_extra: str = "") -> None:
        """``extra`` and ``jetstream_extra`` go into each node's configuration."""
        routes = [free_port() for _ in range(NODES)]
        urls = ", ".join(f'"nats://{HOST}:{port}"' for port in routes)
        self.nodes = [
            NatsServer(
                extra=f"""
cluster {{ name: test, listen: "{HOST}:{port}", routes: [{urls}] }}
lame_duck_duration: "30s"
lame_duck_grace_period: "1s"
{extra}
""",
                jetstream_extra=jetstream_extra,
            )
            for port in routes
        ]
        self._stack = ExitStack()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._stack = stack.pop_all()
        self.settle()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def ask(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A request of JetStream's to some node that runs."""
        node = next(node for node in self.nodes if node.alive())
        with asking(node.url) as js:
            return js.request(subject, body)

    def settle(self, timeout: float = 40.0) -> None:
        """Wait until all nodes run, there is a leader for everything, and no replica lags."""

        def settled() -> bool:
            try:
                for node in self.nodes:
                    with asking(node.url, timeout_s=1.0) as js:
                        js.request("INFO")
                for stream in self.streams():
                    group = self.ask(f"STREAM.INFO.{stream}")["cluster"]
                    if not group.get("leader"):
                        return False
                    if not all(r["current"] for r in group.get("replicas") or ()):
                        return False
            except NatsError:
                return False
            return True

        eventually(settled, timeout=timeout, interval=0.1, what="a whole cluster")

    def streams(self) -> list[str]:
        return self.ask("STREAM.NAMES").get("streams") or []

    def node(self, name: str) -> NatsServer:
        return next(node for node in self.nodes if node.name == name)

    def leader_of(self, stream: str) -> NatsServer:
        return self.node(self.ask(f"STREAM.INFO.{stream}")["cluster"]["leader"])

    def lead(self, stream: str, node: NatsServer) -> None:
        """Make a node the leader of a stream."""

        def moved() -> bool:
            if self.leader_of(stream) is node:
                return True
            body = {"placement": {"preferred": node.name}}
            self.ask(f"STREAM.LEADER.STEPDOWN.{stream}", body)
            return False

        eventually(moved, timeout=20, interval=0.3, what=f"{node.name} to lead {stream}")

    def consumers(self, stream: str) -> list[dict[str, Any]]:
        return self.ask(f"CONSUMER.LIST.{stream}").get("consumers") or []


def lame_duck(node: NatsServer) -> None:
    """It sends its clients away, one by one, and ends."""
    os.kill(node.pid, signal.SIGUSR2)
