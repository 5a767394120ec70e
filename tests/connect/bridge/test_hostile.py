"""Whatever is sent to its port, others are answered, and nothing is lost or stuck behind it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import pytest
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.nats_server import NatsServer
from support.service import memory
from support.wait import eventually

from alarmdigest.http.bounded import MAX_CONNECTIONS

pytestmark = pytest.mark.bridge

TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="module")
def streams(server: NatsServer) -> Iterator[Streams]:
    streams = Streams(server)
    yield streams
    streams.close()


@pytest.fixture(scope="module")
def bridge(server: NatsServer, streams: Streams) -> Iterator[BridgeProcess]:
    assert streams.info("ALARMS").messages == 0
    with BridgeProcess(server.url, rules=f'[http]\ntimeout = "{TIMEOUT_S:g}s"') as bridge:
        yield bridge


def connect(bridge: BridgeProcess) -> socket.socket:
    return socket.create_connection(bridge.address, timeout=20)


def head(length: int, path: str = "/alertmanager") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: bridge\r\nContent-Length: {length}\r\n\r\n".encode()


def suppress_all(action: Callable[[], object]) -> None:
    with suppress(OSError, ValueError):
        action()


def everything(connection: socket.socket) -> bytes:
    """Until the other side closes it, or breaks it off."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def one_answer(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"}") and (data := connection.recv(65536)):
        received += data
    return received


@pytest.mark.parametrize("part", [b"", b"POST /alert", head(1000), head(1000) + b'{"alerts"'])
def test_half_a_request_is_answered_with_503_and_closed(part: bytes, bridge: BridgeProcess) -> None:
    with closing(connect(bridge)) as connection:
        connection.sendall(part)
        began = time.monotonic()
        # After a 408 Alertmanager would not come again.
        assert b" 503 " in everything(connection).splitlines()[0]
        assert time.monotonic() - began < TIMEOUT_S + 5


def test_half_a_request_behind_a_whole_one_is_closed_too(bridge: BridgeProcess) -> None:
    body = json.dumps(webhook(alert(user="ada"))).encode()
    for half in (b"POST /alert", head(1000), head(1000) + b'{"alerts"'):
        with closing(connect(bridge)) as connection:
            connection.sendall(head(len(body)) + body + half)
            began = time.monotonic()
            assert everything(connection).startswith(b"HTTP/1.1 200 OK")
            assert time.monotonic() - began < 2 * TIMEOUT_S + 6
    connections = "alarmdigest_bridge_connections"
    eventually(lambda: bridge.metric(connections) < 5, what="the end of them")


def test_who_does_not_read_his_answers_keeps_no_place(server: NatsServer) -> None:
    """Hundreds of pages asked for at once: more than the sockets' buffers hold."""
    rules = '[http]\ntimeout = "500ms"\nanswer_timeout = "500ms"'
    with BridgeProcess(server.url, rules=rules) as bridge, ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(closing(connect(bridge)))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with suppress(OSError):
                connection.setblocking(False)
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: b\r\n\r\n" * 3000)
        connections = "alarmdigest_bridge_connections"
        eventually(lambda: bridge.metric(connections) < 3, timeout=40, what="the end of them")


def test_a_request_that_drips_is_not_taken_for_one_that_comes(bridge: BridgeProcess) -> None:
    """A timeout of the socket would begin again with every byte."""
    with closing(connect(bridge)) as connection:
        connection.sendall(head(10_000))
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began < 20:
                connection.sendall(b" ")
                time.sleep(0.05)
        assert time.monotonic() - began < TIMEOUT_S + 5


def test_a_client_that_goes_away_in_the_middle_costs_nothing(bridge: BridgeProcess) -> None:
    for _ in range(50):
        with closing(connect(bridge)) as connection:
            connection.sendall(head(1000) + b'{"alerts"')
    connections = "alarmdigest_bridge_connections"
    eventually(lambda: bridge.metric(connections) < 5, what="the end of them")
    assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200


def test_a_client_that_goes_away_before_its_answer_has_been_taken_all_the_same(
    bridge: BridgeProcess, streams: Streams
) -> None:
    body = json.dumps(webhook(alert("Gone away", user="ada"))).encode()
    with closing(connect(bridge)) as connection:
        connection.sendall(head(len(body)) + body)
    eventually(
        lambda: any(one[1].startswith("Gone away") for one in streams.events()), what="the event"
    )


def test_beside_a_thousand_idle_sockets_all_are_answered(bridge: BridgeProcess) -> None:
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(closing(connect(bridge)))
        began = time.monotonic()
        assert bridge.http("/healthz") == (200, "ok\n")
        assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200
        assert time.monotonic() - began < 5


def test_newcomers_do_not_throw_out_a_request_that_is_being_answered(
    server: NatsServer, bridge: BridgeProcess
) -> None:
    """While NATS stands still all places are taken, many times over."""
    answers: list[int] = []
    body = webhook(alert("Waits", user="ada"))

    def post() -> None:
        answers.append(bridge.post("/alertmanager", body)[0])

    thread = threading.Thread(target=post)
    with ExitStack() as stack:
        server.pause()
        thread.start()
        unconfirmed = "alarmdigest_bridge_unconfirmed_requests"
        eventually(lambda: bridge.metric(unconfirmed) == 1, what="the request")
        for _ in range(400):
            stack.enter_context(closing(connect(bridge)))
        taken = "alarmdigest_bridge_connections"
        eventually(lambda: bridge.metric(taken) >= MAX_CONNECTIONS, what="no place is left")
        server.resume()
        thread.join(20)
    assert answers
    assert answers[0] in (200, 503)  # an answer, not a connection that was broken off
    eventually(lambda: bridge.post("/alertmanager", body)[0] == 200, timeout=20)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /alertmanager HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /alertmanager HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /alertmanager HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 30_000,
        b"\x00" * 20 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_with_400_and_closed(
    nonsense: bytes, bridge: BridgeProcess
) -> None:
    with closing(connect(bridge)) as connection:
        connection.sendall(nonsense)
        assert everything(connection).split()[1] == b"400"
    assert bridge.http("/readyz") == (200, "ok\n")


def test_headers_without_end_are_broken_off(bridge: BridgeProcess) -> None:
    """The answer may be lost on the way, with so much that nobody has read."""
    with closing(connect(bridge)) as connection, suppress(ConnectionError):
        connection.sendall(b"POST /alertmanager HTTP/1.1\r\nHost: x\r\nX: ")
        for _ in range(1000):
            connection.sendall(b"y" * 10_000)
        raise AssertionError("it takes everything")
    assert bridge.http("/readyz") == (200, "ok\n")


def test_no_web_page_posts_alerts_through_its_visitors_browser(bridge: BridgeProcess) -> None:
    """It can, without being asked back, as long as it calls them plain text."""
    headers = {"Content-Type": "text/plain", "Origin": "https://elsewhere.example.com"}
    status, answer = bridge.post("/alertmanager", webhook(alert(user="ada")), headers)
    assert (status, answer) == (403, {"error": "no alerts are taken from a browser"})


def test_several_requests_on_one_connection(bridge: BridgeProcess) -> None:
    """Alertmanager keeps its connections; so does whoever sends the next before the answer."""
    bodies = [json.dumps(webhook(alert(f"K{n}", user="ada"))).encode() for n in range(20)]
    with closing(connect(bridge)) as connection:
        for body in bodies:
            connection.sendall(head(len(body)) + body)
            assert b" 200 OK" in one_answer(connection)
        connection.sendall(b"".join(head(len(body)) + body for body in bodies))
        received = b""
        while received.count(b" 200 OK") < 20:
            data = connection.recv(65536)
            assert data, received
            received += data


def test_a_connection_may_stay_idle_longer_than_a_request_may_take(
    bridge: BridgeProcess,
) -> None:
    body = json.dumps(webhook(alert(user="ada"))).encode()
    with closing(connect(bridge)) as connection:
        for _ in range(2):
            connection.sendall(head(len(body)) + body)
            assert b" 200 OK" in one_answer(connection)
            time.sleep(TIMEOUT_S + 0.5)


def test_chunked_bodies_and_expect_continue(bridge: BridgeProcess) -> None:
    body = json.dumps(webhook(alert(user="ada"))).encode()
    with closing(connect(bridge)) as connection:
        connection.sendall(
            b"POST /alertmanager HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"%x\r\n%b\r\n" % (1, body[n : n + 1]) for n in range(len(body)))
            + b"0\r\n\r\n"
        )
        assert b" 200 OK" in one_answer(connection)
    with closing(connect(bridge)) as connection:
        connection.sendall(
            b"POST /alertmanager HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        assert b" 100 " in connection.recv(1000)
        connection.sendall(body)
        assert b" 200 OK" in one_answer(connection)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/alertmanager", 405),
        ("DELETE", "/alertmanager", 405),
        ("POST", "/alertmanagers", 404),
        ("POST", "/metrics", 404),
        ("GET", "/", 404),
        ("GET", "/..%2f..%2fetc/passwd", 404),
        ("POST", "/alertmanager?" + "a=b&" * 100, 400),
        ("POST", "/alertmanager?user=" + "u" * 2001, 400),
    ],
)
def test_other_ways_in(method: str, path: str, status: int, bridge: BridgeProcess) -> None:
    with closing(connect(bridge)) as connection:
        connection.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            "Connection: close\r\n\r\n{}".encode()
        )
        assert everything(connection).split()[1] == str(status).encode()


def test_lists_within_lists_spoil_nothing_else(bridge: BridgeProcess, streams: Streams) -> None:
    """What orjson reads so deep it does not write."""
    nested = alert("Nested", status="purple", user="ada")
    for _ in range(300):
        nested["values"] = [nested.get("values")]
    status, answer = bridge.post("/alertmanager", webhook(nested, alert("Beside", user="ada")))
    assert (status, answer["alarms"], answer["rejected"]) == (200, 1, 1)
    assert streams.events()[-1][1].startswith("Beside")


def test_millions_of_alerts_that_are_nothing_hold_up_nobody(bridge: BridgeProcess) -> None:
    answers: list[tuple[int, float]] = []

    def probe() -> None:
        began = time.monotonic()
        answers.append((bridge.http("/healthz")[0], time.monotonic() - began))

    body = b"[" + b"{}," * 5_000_000 + b"{}]"
    thread = threading.Thread(target=lambda: suppress_all(lambda: bridge.post("/alerts", body)))
    thread.start()
    while thread.is_alive():
        probe()
    assert {status for status, _took in answers} == {200}
    assert max(took for _status, took in answers) < 5
    status, answer = bridge.post("/alerts", body)
    assert (status, answer) == (413, {"error": "it becomes too many alarms"})


def test_an_alert_of_very_many_users_is_rejected(bridge: BridgeProcess) -> None:
    many = alert(user=",".join(map(str, range(200_000))))
    assert bridge.post("/alertmanager", webhook(many))[1]["rejected"] == 1


def test_a_compressed_body_is_refused_in_words(bridge: BridgeProcess) -> None:
    status, answer = bridge.post("/alertmanager", b"x", {"Content-Encoding": "gzip"})
    assert (status, answer) == (415, {"error": "the body must not be compressed"})


def test_many_large_bodies_at_a_time_stay_within_bounds(server: NatsServer) -> None:
    """Four times the largest body may be read at once; who comes beyond that is told so."""
    rules = '[http]\nmax_body = "2MiB"'
    with BridgeProcess(server.url, rules=rules) as bridge, ExitStack() as stack:
        before = memory(bridge)
        sockets = [stack.enter_context(closing(connect(bridge))) for _ in range(40)]

        def send(connection: socket.socket) -> None:
            with suppress(OSError):
                connection.sendall(head(2_000_000) + b"[" + b" " * 1_900_000)

        # Some are whole, and wait for a server that stands still.
        whole = webhook(*[alert(f"A{n}", user="u", filler="x" * 300) for n in range(3000)])
        server.pause()
        stack.callback(server.resume)
        waiting = [
            threading.Thread(
                target=lambda: suppress_all(lambda: bridge.post("/alertmanager", whole))
            )
            for _ in range(3)
        ]
        for thread in waiting:
            thread.start()
        unconfirmed = "alarmdigest_bridge_unconfirmed_requests"
        eventually(lambda: bridge.metric(unconfirmed) >= 1, what="one that waits")

        threads = [threading.Thread(target=send, args=(one,)) for one in sockets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        sample = 'alarmdigest_bridge_requests_total{code="503",sender="alertmanager"}'
        eventually(lambda: bridge.metric(sample) >= 30, timeout=20, what="rejections")
        assert memory(bridge) - before < 64 * 2**20
        assert bridge.http("/healthz") == (200, "ok\n")
        server.resume()
        for thread in waiting:
            thread.join(30)
        for one in sockets:
            one.close()
        eventually(
            lambda: bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200,
            what="room again",
        )


def test_broken_utf8_in_one_body_leaves_the_next_alone(
    bridge: BridgeProcess, streams: Streams
) -> None:
    broken = json.dumps(webhook(alert(user="XX"))).encode().replace(b"XX", b"\xc3\x28")
    assert bridge.post("/alertmanager", broken)[0] == 400
    assert bridge.post("/alertmanager", webhook(alert("After", user="ada")))[0] == 200
    assert streams.events()[-1][1].startswith("After")
