"""The test tools themselves: a proxy that does not do what it says makes every fault test lie."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg
from support.nats_server import HOST, NatsServer, free_port
from support.proxy import Proxy
from support.wait import eventually


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    connections: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = sock.accept()
                connections.append(connection)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server((HOST, 0)) as sock:
        threading.Thread(target=serve, daemon=True).start()
        yield sock.getsockname()[1]
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        assert ask(client, b"hello") == b"hello"
        yield client


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=5)


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        assert more, f"EOF after {len(data)} bytes"
        data += more
    return data


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def test_bytes_pass_unchanged_both_ways(client: socket.socket) -> None:
    data = os.urandom(3_000_000)
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert receive(client, len(data)) == data
    sender.join()


def test_eof_passes_both_ways(proxy: Proxy, client: socket.socket) -> None:
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 4) == b"last"
    assert client.recv(1) == b""
    eventually(lambda: proxy.open_connections == 0, what="the end of the connection")


def test_connections_are_counted(proxy: Proxy, client: socket.socket) -> None:
    with connect(proxy) as other:
        ask(other, b"x")
        assert proxy.connections == 2
        assert proxy.open_connections == 2
    eventually(lambda: proxy.open_connections == 1, what="one connection less")
    assert proxy.connections == 2
    assert ask(client, b"still") == b"still"


def test_cut_resets_every_connection(proxy: Proxy, client: socket.socket) -> None:
    with connect(proxy) as other:
        ask(other, b"x")
        proxy.cut()
        assert proxy.open_connections == 0
        for each in (client, other):
            with pytest.raises(ConnectionResetError):
                each.recv(1)
    with connect(proxy) as again:
        assert ask(again, b"x") == b"x"


def test_cut_wakes_a_receiver(proxy: Proxy, client: socket.socket) -> None:
    cutter = threading.Timer(0.1, proxy.cut)
    cutter.start()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    cutter.join()


def test_cut_works_on_a_connection_that_is_blocked(proxy: Proxy, client: socket.socket) -> None:
    client.settimeout(0.2)
    with suppress(TimeoutError):
        while True:  # we do not read, so in the end nobody can write
            client.send(bytes(65536))
    proxy.cut()
    client.settimeout(5)
    with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe, as the system likes
        client.sendall(b"x")


@pytest.mark.parametrize("n_bytes", [1, 7, 100_000])
def test_cut_after_delivers_exactly_so_much(
    proxy: Proxy, client: socket.socket, n_bytes: int
) -> None:
    proxy.cut_after(n_bytes)
    client.sendall(b"y" * (n_bytes + 500))
    assert receive(client, n_bytes) == b"y" * n_bytes
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as again:  # once only
        assert ask(again, b"z" * (n_bytes + 1)) == b"z" * (n_bytes + 1)


def test_cut_after_holds_for_a_connection_made_later(proxy: Proxy) -> None:
    proxy.cut_after(3)
    with connect(proxy) as client:
        client.sendall(b"12345")
        assert receive(client, 3) == b"123"
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_cut_after_cuts_only_the_first_to_get_there(proxy: Proxy, client: socket.socket) -> None:
    with connect(proxy) as other:
        ask(other, b"x")
        proxy.cut_after(3)
        other.sendall(b"1234")
        assert receive(other, 3) == b"123"
        with pytest.raises(ConnectionResetError):
            other.recv(1)
    assert ask(client, b"still here") == b"still here"


def test_a_stall_holds_everything_and_loses_nothing(proxy: Proxy, client: socket.socket) -> None:
    proxy.stall()
    client.sendall(b"wait")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.resume()
    client.settimeout(5)
    assert receive(client, 4) == b"wait"


def test_a_stalled_connection_can_be_cut(proxy: Proxy, client: socket.socket) -> None:
    proxy.stall()
    client.sendall(b"lost")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    proxy.resume()
    with connect(proxy) as again:
        assert ask(again, b"x") == b"x"


def test_a_delay_holds_each_way(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.1)
    started = time.monotonic()
    assert ask(client, b"slow") == b"slow"
    assert time.monotonic() - started >= 0.2
    proxy.delay(0)
    started = time.monotonic()
    assert ask(client, b"fast") == b"fast"
    assert time.monotonic() - started < 0.1


def test_split_arrives_in_small_pieces(proxy: Proxy, client: socket.socket) -> None:
    proxy.split(3, pause=0.005)
    client.sendall(b"0123456789")
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < 10:
        pieces.append(client.recv(100))
    assert b"".join(pieces) == b"0123456789"
    assert len(pieces) >= 3  # a busy machine may read two at once
    proxy.split(None)
    assert ask(client, b"whole") == b"whole"


def test_refuse_and_accept(proxy: Proxy, client: socket.socket) -> None:
    port = proxy.port
    for _ in range(3):
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert ask(client, b"goes on") == b"goes on"
        proxy.accept()
        with connect(proxy) as other:
            assert ask(other, b"x") == b"x"
    assert proxy.port == port


def test_without_a_server_a_connection_is_reset() -> None:
    with Proxy(free_port()) as proxy:
        with pytest.raises(ConnectionResetError), connect(proxy) as client:  # either may see it
            client.recv(1)
        eventually(lambda: proxy.open_connections == 0, what="no connection")


def test_leaving_ends_thread_and_connections(echo: int) -> None:
    before = threading.active_count()
    with Proxy(echo) as proxy:
        proxy.stall()
        client = connect(proxy)
        client.sendall(b"x")
        eventually(lambda: proxy.connections == 1, what="the connection")
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
    eventually(lambda: threading.active_count() <= before + 1, what="the thread's end")
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)


# -- the server for tests


def test_a_client_reconnects_through_the_proxy_after_a_cut() -> None:
    async def run(proxy: Proxy) -> None:
        client = await nats.connect(proxy.url, reconnect_time_wait=0.05)
        got: asyncio.Queue[bytes] = asyncio.Queue()

        async def take(message: Msg) -> None:
            await got.put(message.data)

        await client.subscribe("s", cb=take)
        await client.flush()
        proxy.cut()
        while proxy.connections < 2 or not client.is_connected:
            await asyncio.sleep(0.01)
        await client.flush()
        await client.publish("s", b"again")
        assert await asyncio.wait_for(got.get(), 5) == b"again"
        await client.close()

    with NatsServer(jetstream=False) as server, Proxy(server.port) as proxy:
        asyncio.run(asyncio.wait_for(run(proxy), 10))


@pytest.mark.parametrize("end", [NatsServer.kill, NatsServer.stop])
def test_the_server_keeps_port_and_stream(end: Callable[[NatsServer], None]) -> None:
    async def publish() -> int:
        client = await nats.connect(server.url)
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=["s"])
        seq = (await stream.publish("s", b"x")).seq
        await client.close()
        return seq

    with NatsServer() as server:
        port = server.port
        assert asyncio.run(publish()) == 1
        end(server)
        assert not server.alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port))
        server.start()
        assert server.port == port
        assert asyncio.run(publish()) == 2


def test_the_server_takes_configuration() -> None:
    extra = 'max_payload: 2000\nauthorization { user: "u", password: "p" }'
    with NatsServer(jetstream=False, extra=extra) as server:
        with socket.create_connection((HOST, server.port), timeout=5) as client:
            greeting = client.recv(4096)
        assert b'"max_payload":2000' in greeting
        assert b'"auth_required":true' in greeting


def test_configuration_that_the_server_refuses_is_shown() -> None:
    server = NatsServer(extra="no_such_key: 1")
    with pytest.raises(AssertionError, match="no_such_key"), server:
        pass


def test_two_that_want_one_port_do_not_take_each_other_for_themselves() -> None:
    with NatsServer(jetstream=False) as first:
        second = NatsServer(jetstream=False, port=first.port)
        with pytest.raises(AssertionError, match="address already in use"):
            second.start(timeout=0.5)
        second.close()
        assert first.alive()


def test_a_fixed_port_is_waited_for() -> None:
    first = NatsServer(jetstream=False)
    first.start()
    second = NatsServer(jetstream=False, port=first.port)
    timer = threading.Timer(0.3, first.close)
    timer.start()
    with second:
        assert second.alive()
    timer.join()


def test_a_paused_server_is_silent_until_resumed() -> None:
    with (
        NatsServer(jetstream=False) as server,
        socket.create_connection((HOST, server.port), timeout=0.2) as client,
    ):
        assert client.recv(4096).startswith(b"INFO ")
        server.pause()
        client.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            client.recv(100)
        server.resume()
        client.settimeout(5)
        assert client.recv(100) == b"PONG\r\n"


def test_closing_leaves_neither_process_nor_directory() -> None:
    with NatsServer() as server:
        folder = Path(server._folder.name)
        pid = server.pid
        assert folder.exists()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- waiting


def test_eventually_returns_what_came() -> None:
    values = iter([0, None, "", "here"])
    assert eventually(lambda: next(values)) == "here"


def test_eventually_names_what_did_not_come() -> None:
    with pytest.raises(AssertionError, match=r"waited 0.05 s for the moon; last seen: \[\]"):
        eventually(list, timeout=0.05, what="the moon")
