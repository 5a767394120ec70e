"""A server of its own for each test of deliver, with the service's streams, and who gets mail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bridge import Streams
from support.deliver import Digests
from support.nats_server import NatsServer
from support.receivers import MailServer, WebServer


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def streams(server: NatsServer) -> Iterator[Streams]:
    streams = Streams(server)
    yield streams
    streams.close()


@pytest.fixture
def digests(streams: Streams) -> Digests:
    return Digests(streams)


@pytest.fixture
def mails() -> Iterator[MailServer]:
    with MailServer() as mails:
        yield mails


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as web:
        yield web
