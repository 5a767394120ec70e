"""The HTTP side stays small and closed, whoever asks."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from support.faults import patched
from support.nats_server import HOST, NatsServer
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.http.short import MAX_REQUEST_BYTES
from alarmdigest.observability.guard import may_ask_as


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with NatsServer(jetstream=False) as server, ServiceProcess(server.url) as service:
        yield service


def place(service: ServiceProcess) -> tuple[str, int]:
    where = urlsplit(service.wait_for_log(r"on=(http://\S+)")[1])
    return where.hostname or "", where.port or 0


def get(
    service: ServiceProcess, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(*place(service), timeout=10)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    return answer, answer.read()


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/page.css", "/status.json", "/metrics", "/readyz", "/no"]
)
def test_every_answer_has_the_headers_of_a_closed_page(service: ServiceProcess, path: str) -> None:
    answer, _body = get(service, path)
    policy = (answer.getheader("Content-Security-Policy") or "").split("; ")
    assert policy[0] == "default-src 'none'"
    assert {"script-src 'self'", "style-src 'self'", "connect-src 'self'"} < set(policy)
    assert "frame-ancestors 'none'" in policy
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("X-Frame-Options") == "DENY"
    assert answer.getheader("Referrer-Policy") == "no-referrer"
    assert answer.getheader("Cache-Control") == "no-store"
    assert answer.getheader("Server") == "alarmdigest"


@pytest.mark.parametrize("path", ["/", "/status.json"])
def test_head_is_get_without_the_body(service: ServiceProcess, path: str) -> None:
    answer, body = get(service, path, method="HEAD")
    assert (answer.status, body) == (200, b"")
    assert int(answer.getheader("Content-Length") or 0) > 500


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9595", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("127.9.9.9:80", 200),
        ("[::1]:9595", 200),
        ("evil.example", 421),
        ("evil.example:9595", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.0.2.1", 421),
        ("", 421),
    ],
)
def test_a_page_from_elsewhere_cannot_pretend_to_be_us(
    service: ServiceProcess, host: str, status: int
) -> None:
    answer, body = get(service, "/status.json", {"Host": host})
    assert answer.status == status
    assert (b"version" in body) == (status == 200)


def test_where_it_was_told_to_listen_for_others_it_answers_to_any_name() -> None:
    assert may_ask_as("alarms.example:9595", "0.0.0.0")
    assert may_ask_as("alarms.example", "192.0.2.7")
    assert may_ask_as(None, "127.0.0.1")
    assert not may_ask_as("alarms.example", "::1")
    assert not may_ask_as("alarms.example", "localhost")


def test_a_request_without_end_is_cut(service: ServiceProcess) -> None:
    answer, _body = get(service, "/", {"X-Long": "x" * MAX_REQUEST_BYTES})
    assert answer.status == 431
    answer, _body = get(service, "/", {f"X-{number}": "x" * 900 for number in range(20)})
    assert answer.status == 431
    answer, _body = get(service, "/", {"X-Long": "x" * (MAX_REQUEST_BYTES - 1024)})
    assert answer.status == 200


SHORT_LIVES = """
from alarmdigest.http import short
short.CONNECTION_LIFE_S = 0.5
"""


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: x", b""])
def test_whoever_sends_a_byte_now_and_then_does_not_keep_a_place(sent: bytes) -> None:
    with (
        NatsServer(jetstream=False) as server,
        ServiceProcess(server.url, program=patched(SHORT_LIVES)) as service,
        socket.create_connection(place(service)) as slow,
    ):
        slow.settimeout(0.05)
        slow.sendall(sent)

        def ended() -> bool:
            try:
                slow.sendall(b"x" if sent else b"")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        assert not ended()
        eventually(ended, timeout=5, what="its end")


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x00\xa5\x01\r\n", b"GET\r\n\r\n", b"GET / FTP\r\n\r\n"]
)
def test_what_is_no_request_is_refused_without_a_line_in_the_log(
    service: ServiceProcess, nonsense: bytes
) -> None:
    before = service.log
    with socket.create_connection(place(service), timeout=10) as stranger:
        stranger.sendall(nonsense)
        answer = stranger.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert service.http("/healthz") == (200, "ok\n")
    assert service.log == before


def test_the_status_is_there_before_the_service_is_connected() -> None:
    service = ServiceProcess(f"nats://{HOST}:1", options=["--connect-timeout", "20s"])
    try:
        service.start(ready=False).wait_for_log("cannot connect")
        status = json.loads(service.http("/status.json")[1])
        assert status["state"] == "not ready"
        assert "not connected to NATS yet" in status["reasons"][0]
        assert (status["mode"], status["workers"], status["checkpoint"]) == (None, [], None)
        assert set(status["losses"].values()) == {0}
    finally:
        service.kill()


BROKEN_COLLECTOR = """
from alarmdigest.observability.metrics import ServiceCollector
def fail(self):
    raise RuntimeError("on purpose")
ServiceCollector._books = fail
"""


def test_what_goes_wrong_in_making_a_page_is_logged() -> None:
    with (
        NatsServer(jetstream=False) as server,
        ServiceProcess(server.url, program=patched(BROKEN_COLLECTOR)) as service,
    ):
        answer, body = get(service, "/metrics")
        assert (answer.status, body) == (500, b"Internal Server Error\n")
        service.wait_for_log("ERROR .*a page could not be made.*on purpose")
        assert get(service, "/healthz")[0].status == 200
