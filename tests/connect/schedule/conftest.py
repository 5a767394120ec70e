"""A server of its own for each test of the scheduler, with the service's streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bridge import Streams
from support.nats_server import NatsServer


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def streams(server: NatsServer) -> Iterator[Streams]:
    streams = Streams(server)
    yield streams
    streams.close()
