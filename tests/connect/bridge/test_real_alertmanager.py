"""From a rule of a real Prometheus, through a real Alertmanager, the bridge and the service, to a
digest; each of them restarted in between."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone

import pytest
from support.alertmanager import Alertmanager, Exporter, Prometheus
from support.bridge import BridgeProcess, Streams
from support.bus import Bus
from support.inputs import request
from support.nats_server import HOST, NatsServer, free_port
from support.service import ServiceProcess
from support.wait import eventually

pytestmark = pytest.mark.bridge

SLOW_S = 60.0
Digest = list[tuple[str, str, str]]


class Chain:
    """All of it."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(NatsServer())
        self.service = stack.enter_context(
            ServiceProcess(self.server.url, mode="stream", options=["--publish-empty"])
        )
        self.bridge = stack.enter_context(
            BridgeProcess(self.server.url, listen=f"{HOST}:{free_port()}")
        )
        self.exporter = stack.enter_context(Exporter())
        host, port = self.bridge.address
        self.alertmanager = stack.enter_context(Alertmanager(f"http://{host}:{port}/alertmanager"))
        self.prometheus = stack.enter_context(Prometheus(self.alertmanager, self.exporter))
        self.bus = stack.enter_context(Bus(self.server.url))

    def events(self, name: str) -> list[tuple[str, str]]:
        """(status, changed at) of an alarm's events, as the stream has them."""
        streams = Streams(self.server, create=False)
        try:
            return [(one[2], one[3]) for one in streams.events() if one[1].startswith(name)]
        finally:
            streams.close()

    def latest(self, name: str) -> str:
        """The status of the newest, by the service's rule."""
        rank = {"CLEARED": 0, "WARNING": 1, "CRITICAL": 2}
        events = sorted((changed_at, rank[one], one) for one, changed_at in self.events(name))
        return events[-1][2] if events else ""

    def wait_for(self, name: str, *statuses: str) -> list[tuple[str, str]]:
        def there() -> list[tuple[str, str]] | None:
            events = self.events(name)
            # A repeat may be there once more, where the window for duplicates was not enough.
            return events if [one for one, _at in events] == [*statuses] else None

        found = eventually(there, timeout=SLOW_S, what=f"{name}: {statuses}; {self.bridge.log}")
        assert found is not None
        return found

    def digest(self) -> Digest:
        """What a request of ada gives now; empty where nothing is due."""
        known = {one.headers["Nats-Msg-Id"] for one in self.bus.digests}
        self.bus.publish_all([request("ada")])
        new = eventually(
            lambda: [one for one in self.bus.digests if one.headers["Nats-Msg-Id"] not in known],
            timeout=SLOW_S,
            what="the digest",
        )
        return [
            (one["AlarmID"].partition("{")[0], one["Status"], one["LatestChangedAt"])
            for one in new[0].json["ActiveAlarms"]
        ]


@pytest.fixture
def chain() -> Iterator[Chain]:
    with ExitStack() as stack:
        yield Chain(stack)


def now() -> str:
    return datetime.now(timezone.utc).isoformat()


@pytest.mark.timeout(300)
def test_a_firing_rule_is_an_alarm_in_the_digest_until_it_is_resolved(chain: Chain) -> None:
    assert chain.digest() == []
    chain.exporter.value = 0
    [(_critical, at)] = chain.wait_for("ServiceDown", "CRITICAL")
    assert chain.digest() == [("ServiceDown", "CRITICAL", at)]
    assert chain.digest() == [], "told already"
    chain.exporter.value = 1
    chain.wait_for("ServiceDown", "CRITICAL", "CLEARED")
    assert chain.digest() == []
    chain.exporter.value = 0
    events = chain.wait_for("ServiceDown", "CRITICAL", "CLEARED", "CRITICAL")
    assert chain.digest() == [("ServiceDown", "CRITICAL", events[2][1])]


@pytest.mark.timeout(300)
def test_an_alert_that_fires_again_with_its_old_starts_at(chain: Chain) -> None:
    """As a client of Alertmanager does that keeps its own time; Alertmanager passes it on."""
    flapping = {"labels": {"alertname": "Flapping", "user": "ada"}, "startsAt": now()}
    chain.alertmanager.post(flapping)
    [(_warning, began)] = chain.wait_for("Flapping", "WARNING")
    assert chain.digest() == [("Flapping", "WARNING", began)]
    chain.alertmanager.post({**flapping, "endsAt": now()})
    chain.wait_for("Flapping", "WARNING", "CLEARED")
    chain.alertmanager.post(flapping)
    events = chain.wait_for("Flapping", "WARNING", "CLEARED", "WARNING")
    assert events[2][1] > events[1][1], "by its own time it would be behind its CLEARED"
    assert chain.digest() == [("Flapping", "WARNING", events[2][1])]


def restart(chain: Chain, name: str) -> None:
    program = getattr(chain, name)
    if isinstance(program, Alertmanager | Prometheus):
        # Killed, Alertmanager forgets what it was told in the last minutes.
        program.end(signal.SIGTERM)
    else:
        program.kill()
    program.start()


@pytest.mark.timeout(600)
def test_restarts_of_each_part_lose_nothing(chain: Chain) -> None:
    """After every change one part dies, then the alarm is in the digest, or out of it."""
    for name in ("server", "service", "alertmanager", "bridge", "prometheus"):
        for status in ("CRITICAL", "CLEARED"):
            chain.exporter.value = int(status == "CLEARED")
            restart(chain, name)
            eventually(
                lambda status=status: chain.latest("ServiceDown") == status,  # type: ignore[misc]
                timeout=SLOW_S,
                interval=0.1,
                what=f"{name}: {status}; {chain.bridge.log}",
            )
            told = ["ServiceDown"] if status == "CRITICAL" else []
            assert [one[0] for one in chain.digest()] == told
