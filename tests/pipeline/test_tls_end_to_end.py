"""The whole service over TLS, where every message may come in a record of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bus import Bus
from support.credentials import certificates
from support.faults import gated, numbers, pairs
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.streams import store_all
from support.wait import eventually

BURST = 3_000


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    made = certificates(tmp_path)
    extra = made.server_config() + "\nallow_non_tls: true"  # for everybody but the service
    gate, options = tmp_path / "gate", ("--tls-ca", str(made.ca))
    with (
        NatsServer(extra=extra) as server,
        ServiceProcess(server.url, mode="stream", options=options, program=gated(gate)) as service,
        Bus(server.url) as bus,
    ):
        store_all(bus, pairs(range(BURST), users=BURST))
        gate.touch()  # now all digests at once
        assert sorted(numbers(bus.wait_for_digests(BURST))) == list(range(BURST))
        yield service


def test_after_a_burst_all_digests_are_soon_confirmed_though_nothing_else_comes(
    service: ServiceProcess,
) -> None:
    eventually(
        lambda: service.metric("alarmdigest_unconfirmed_bytes") == 0, what="all confirmations"
    )
    assert service.metric('alarmdigest_published_total{kind="digest"}') == BURST
    assert service.stop() == 0


def test_a_drain_after_a_burst_is_clean(service: ServiceProcess) -> None:
    assert service.stop() == 0
