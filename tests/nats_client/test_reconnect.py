"""Opening the next connection: at once, then more and more patiently, on any server there is."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.credentials import certificates
from support.nats_server import HOST, NatsServer, free_port
from support.proxy import Proxy

from alarmdigest.nats import reconnect as link_module
from alarmdigest.nats.auth import Login
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectFailed, UrlError
from alarmdigest.nats.reconnect import FIRST_PAUSE_S, Reconnector


def opened(reconnector: Reconnector) -> Connection:
    deadline = time.monotonic() + 20
    connection = reconnector.connect_with_backoff(lambda: time.monotonic() < deadline)
    assert connection is not None, reconnector.last_error
    return connection


def dead_url() -> str:
    return f"nats://{HOST}:{free_port()}"


def test_a_bad_url_is_reported_before_anything_is_opened() -> None:
    with pytest.raises(UrlError):
        Reconnector(["nats://somewhere", "http://elsewhere"], name="test")


def test_after_a_loss_the_next_connection_is_there_at_once() -> None:
    with NatsServer(jetstream=False) as server, Proxy(server.port) as proxy:
        reconnector = Reconnector([proxy.url], name="test")
        opened(reconnector)
        proxy.cut()
        start = time.monotonic()
        opened(reconnector).close()
        assert time.monotonic() - start < 0.5
        assert reconnector.connections == 2


def test_a_good_connection_is_replaced_without_any_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "GOOD_AFTER_S", 0.0)
    monkeypatch.setattr(link_module, "FIRST_PAUSE_S", 5.0)
    with NatsServer(jetstream=False) as server:
        reconnector = Reconnector([server.url], name="test")
        start = time.monotonic()
        for _ in range(3):
            opened(reconnector).close()
        assert time.monotonic() - start < 2.5


def test_a_connection_that_is_lost_at_once_again_and_again_does_not_spin() -> None:
    with NatsServer(jetstream=False) as server:
        reconnector = Reconnector([server.url], name="test")
        start = time.monotonic()
        for _ in range(5):
            opened(reconnector).close()
        # Before the second to fifth: one, two, four, eight pauses of half the length at least.
        assert time.monotonic() - start >= 15 * FIRST_PAUSE_S / 2


def attempts(reconnector: Reconnector, count: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each of ``count`` attempts to connect was made."""
    times: list[float] = []
    connect = Connection.connect

    def noted(connection: Connection) -> None:
        times.append(time.monotonic())
        connect(connection)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "connect", noted)
        assert reconnector.connect_with_backoff(lambda: len(times) < count) is None
    return times


def test_attempts_become_rarer_up_to_a_limit_and_never_regular(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "LONGEST_PAUSE_S", 0.1)
    times = attempts(Reconnector([dead_url()], name="test"), 12, monkeypatch)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    for gap, limit in zip(gaps, [0.05, *[0.1] * 10], strict=True):
        assert limit / 2 <= gap < limit + 0.15  # what a busy machine may add
    # Ten from 50 to 100 ms within 8 of each other: once in 2 million runs.
    assert max(gaps[1:]) - min(gaps[1:]) > 0.008, "no jitter"


def test_an_unreachable_server_is_named_as_the_last_error() -> None:
    url = dead_url()
    reconnector = Reconnector([url], name="test")
    asked = itertools.count()
    assert reconnector.connect_with_backoff(lambda: next(asked) < 3) is None
    assert reconnector.last_error.startswith(f"{url}: ")


def test_it_stops_in_the_middle_of_a_pause_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(link_module, "LONGEST_PAUSE_S", 60.0)
    start = time.monotonic()
    assert (
        Reconnector([dead_url()], name="test").connect_with_backoff(
            lambda: time.monotonic() < start + 0.3
        )
        is None
    )
    assert time.monotonic() - start < 2


def test_a_dead_server_is_passed_over_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "FIRST_PAUSE_S", 60.0)
    with NatsServer(jetstream=False) as server:
        connection = opened(Reconnector([dead_url(), dead_url(), server.url], name="test"))
        assert connection.url == server.url
        connection.close()


def test_the_server_just_lost_is_tried_last() -> None:
    with NatsServer(jetstream=False) as first, NatsServer(jetstream=False) as second:
        reconnector = Reconnector([first.url, second.url], name="test")
        seen = []
        for _ in range(3):
            connection = opened(reconnector)
            seen.append(connection.url)
            connection.close()
        assert seen == [first.url, second.url, first.url]


@contextmanager
def cluster(login: str = "") -> Iterator[tuple[NatsServer, NatsServer]]:
    """Two servers, each of which announces the other to its clients."""
    ports = free_port(), free_port()

    def extra(own: int) -> str:
        routes = ", ".join(f'"nats://{HOST}:{port}"' for port in ports)
        return f'cluster {{ name: c, host: "{HOST}", port: {ports[own]}, routes: [{routes}] }}\n'

    with (
        NatsServer(jetstream=False, extra=extra(0) + login) as first,
        NatsServer(jetstream=False, extra=extra(1) + login) as second,
    ):
        yield first, second


def open_when_learned(reconnector: Reconnector, port: int) -> Connection:
    """A connection whose server has announced the one on ``port``, and that was learned."""
    deadline = time.monotonic() + 10
    while True:
        connection = opened(reconnector)
        if f"{HOST}:{port}" in connection.info.get("connect_urls", ()):
            reconnector.learn(connection)
            return connection
        connection.close()
        assert time.monotonic() < deadline, "the servers do not find each other"


def test_a_server_that_was_only_announced_takes_over_with_the_same_login() -> None:
    with cluster("authorization { user: u, password: p }") as (first, second):
        reconnector = Reconnector([f"nats://u:p@{HOST}:{first.port}"], name="test")
        connection = open_when_learned(reconnector, second.port)
        assert reconnector.has_alternative()
        first.kill()
        connection.close()
        replacement = opened(reconnector)
        assert replacement.url == second.url
        replacement.close()


def test_a_server_announced_by_its_address_shows_a_certificate_for_our_name(tmp_path: Path) -> None:
    """The servers announce 127.0.0.1; their certificate is for "localhost" only."""
    named = certificates(tmp_path, host="localhost")
    with cluster(named.server_config()) as (first, second):
        reconnector = Reconnector(
            [f"tls://localhost:{first.port}"], name="test", login=Login(tls_ca=named.ca)
        )
        connection = open_when_learned(reconnector, second.port)
        first.kill()
        for _ in range(2):  # the second time it is the one that we were led to that leads us
            connection.close()
            connection = opened(reconnector)
            assert connection.url == f"tls://{HOST}:{second.port}"
        connection.close()
        by_address = Connection(f"tls://{HOST}:{second.port}", name="t", login=reconnector.login)
        with pytest.raises(ConnectFailed, match="not valid for '127"):
            by_address.connect()


def test_a_server_of_our_own_list_is_verified_as_it_is_written_there(tmp_path: Path) -> None:
    """Also when it is announced by the same address, by one that has another name."""
    by_address = certificates(tmp_path, host=HOST)
    with NatsServer(jetstream=False, extra=by_address.server_config()) as server:
        ours = f"tls://{HOST}:{server.port}"
        reconnector = Reconnector(
            [f"tls://localhost:{server.port}", ours], name="test", login=Login(tls_ca=by_address.ca)
        )
        connection = opened(reconnector)
        assert connection.url == ours
        connection.info["connect_urls"] = [f"{HOST}:{server.port}"]
        reconnector._current_name = "localhost"
        reconnector.learn(connection)
        connection.close()
        opened(reconnector).close()


def test_what_an_announcement_has_wrong_is_passed_over() -> None:
    with NatsServer(jetstream=False) as server:
        reconnector = Reconnector([server.url], name="test")
        connection = opened(reconnector)
        assert not reconnector.has_alternative()
        connection.info["connect_urls"] = ["here:99999", "[::1", f"{HOST}:{free_port()}"]
        reconnector.learn(connection)
        connection.close()
        assert reconnector.has_alternative()
        opened(reconnector).close()


def test_a_server_that_seems_to_hang_again_and_again_is_given_more_and_more_time() -> None:
    """All servers may be slow: to take them for hung for ever would be the end of all work."""
    with NatsServer(jetstream=False) as server:
        reconnector = Reconnector([server.url], name="test")
        given = []
        for _ in range(6):
            connection = opened(reconnector)
            given.append(connection.patience)
            connection.hangs(1.0)
            connection.close()
        assert given == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
        opened(reconnector).close()
        assert opened(reconnector).patience == 1.0


def test_a_server_that_is_of_no_use_to_the_caller_is_tried_last() -> None:
    """It takes connections; but its JetStream does not answer, as it is cut off from the others."""
    with NatsServer(jetstream=False) as first, NatsServer(jetstream=False) as second:
        reconnector = Reconnector([first.url, second.url], name="test", short_lived=True)
        for _ in range(2):
            connection = opened(reconnector)
            assert connection.url == first.url
            connection.close()
        reconnector.avoid(connection)
        assert opened(reconnector).url == second.url


@pytest.mark.parametrize("urls", [5, "here", {"a": 1}, [5, None, ["x"], "a:b:c"]])
def test_an_info_that_lists_no_servers_is_lived_with(urls: object) -> None:
    with NatsServer(jetstream=False) as server:
        reconnector = Reconnector([server.url], name="test")
        connection = opened(reconnector)
        connection.info["connect_urls"] = urls
        reconnector.learn(connection)
        assert not reconnector.has_alternative()
