"""Several servers, or several addresses of one name, some of which hang: who connects first?"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.credentials import certificates
from support.nats_server import HOST, NatsServer
from support.proxy import Proxy

from alarmdigest.nats.auth import Login
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.reconnect import Reconnector


def opened(reconnector: Reconnector, within: float) -> Connection:
    """The next connection, which must be there in time."""
    start = time.monotonic()
    connection = reconnector.connect_with_backoff(lambda: time.monotonic() < start + 10)
    assert connection is not None, reconnector.last_error
    assert time.monotonic() - start < within
    return connection


@contextmanager
def hanging() -> Iterator[NatsServer]:
    """The kernel takes connections, and nobody says anything."""
    with NatsServer(jetstream=False) as server:
        server.pause()
        yield server


def test_servers_that_hang_cost_a_moment_each_and_not_an_attempt_s_time() -> None:
    with hanging() as one, hanging() as two, NatsServer(jetstream=False) as well:
        reconnector = Reconnector([one.url, two.url, well.url], name="test", attempt_timeout=8.0)
        connection = opened(reconnector, 1.5)
        assert connection.url == well.url
        connection.close()


def test_a_server_that_hung_is_tried_behind_all_others_and_in_the_end_it_is_tried() -> None:
    with hanging() as one, NatsServer(jetstream=False) as two, NatsServer(jetstream=False) as three:
        reconnector = Reconnector([one.url, two.url, three.url], name="test", attempt_timeout=0.2)
        first = opened(reconnector, 1.0)
        assert first.url == two.url
        # Whichever was lost last is the last one; and one that hangs costs a moment, not more.
        assert [opened(reconnector, 1.0).url for _ in range(4)] == [three.url, two.url] * 2
        one.resume()
        two.kill()
        three.kill()
        assert opened(reconnector, 3.0).url == one.url


def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """``two.example`` is 127.0.0.2 and 127.0.0.1."""
    look_up = socket.getaddrinfo

    def found(host: Any, *more: Any, **named: Any) -> Any:
        hosts = ["127.0.0.2", HOST] if host == "two.example" else [host]
        return [place for one in hosts for place in look_up(one, *more, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_the_second_address_of_a_name_serves_when_the_first_one_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up = socket.getaddrinfo

    def two_addresses(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != "two.example":
            return look_up(host, port, *more, **named)
        return [
            found for one in ("127.0.0.2", HOST) for found in look_up(one, port, *more, **named)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    with NatsServer(jetstream=False) as server, socket.socket() as silent:
        silent.bind(("127.0.0.2", server.port))
        silent.listen()
        reconnector = Reconnector(
            [f"nats://two.example:{server.port}"], name="test", attempt_timeout=8.0
        )
        opened(reconnector, 1.5).close()


def test_an_address_that_refuses_is_no_failure_while_the_name_has_another_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with localhost and a server that listens on 127.0.0.1 only."""
    two_addresses(monkeypatch)
    with NatsServer(jetstream=False) as server:
        reconnector = Reconnector([f"nats://two.example:{server.port}"], name="test")
        opened(reconnector, 1.0).close()
        assert "cannot connect" not in caplog.text
        server.kill()
        start = time.monotonic()
        assert reconnector.connect_with_backoff(lambda: time.monotonic() < start + 0.5) is None
        assert "cannot connect" in caplog.text


def test_a_name_that_takes_long_to_look_up_keeps_nobody_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up, asked = socket.getaddrinfo, threading.Event()

    def slow(host: Any, *more: Any, **named: Any) -> Any:
        if host == "slow.example":
            asked.wait(10)
        return look_up(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with NatsServer(jetstream=False) as server:
            reconnector = Reconnector(["nats://slow.example:4222", server.url], name="test")
            assert opened(reconnector, 1.5).url == server.url
            alone = Reconnector(["nats://slow.example:4222"], name="test")
            start = time.monotonic()
            assert alone.connect_with_backoff(lambda: time.monotonic() < start + 0.3) is None
            assert time.monotonic() - start < 1.0
    finally:
        asked.set()


def test_a_name_that_is_gone_is_said_and_the_others_serve() -> None:
    with NatsServer(jetstream=False) as server:
        reconnector = Reconnector(["nats://gone.invalid:4222", server.url], name="test")
        assert opened(reconnector, 5.0).url == server.url
        assert "nats://gone.invalid:4222: " in reconnector.last_error


def test_tls_over_a_long_way_comes_through(tmp_path: Path) -> None:
    """Each way takes 0.3 s; two seconds for all of it, as it was once, are too few."""
    ours = certificates(tmp_path, host=HOST)
    with (
        NatsServer(jetstream=False, extra=ours.server_config()) as server,
        Proxy(server.port) as proxy,
    ):
        proxy.delay(0.3)
        reconnector = Reconnector(
            [f"tls://{HOST}:{proxy.port}"], name="test", login=Login(tls_ca=ours.ca)
        )
        connection = opened(reconnector, 5.0)
        assert connection.round_trip_s > 0.5
        connection.close()


def test_whatever_goes_wrong_in_one_attempt_is_the_attempt_s_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when files of a library are gone while we run."""
    connect = Connection.connect

    def broken_once(_connection: Connection) -> None:
        monkeypatch.setattr(Connection, "connect", connect)
        raise LookupError("no metadata")

    monkeypatch.setattr(Connection, "connect", broken_once)
    with NatsServer(jetstream=False) as server:
        reconnector = Reconnector([server.url], name="test")
        opened(reconnector, 2.0).close()
        assert reconnector.last_error == f"{server.url}: LookupError: no metadata"
