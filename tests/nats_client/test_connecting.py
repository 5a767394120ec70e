"""Opening a connection to a real nats-server: where, as whom, with which certificates."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from support.nats_server import HOST, NatsServer, free_port
from support.talk import talk

from alarmdigest._ext import frames
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectFailed, UrlError


def failure_of(url: str, timeout: float = 5.0) -> str:
    """What is said when this connection does not come about."""
    connection = Connection(url, name="test", timeout=timeout)
    with pytest.raises(ConnectFailed) as caught:
        connection.connect()
    return str(caught.value)


# -- URLs ------------------------------------------------------------------------------------------


def test_a_url_without_a_port_means_4222(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def nobody(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address)
        raise ConnectionRefusedError(f"nobody there for {timeout:g} s")

    monkeypatch.setattr(socket, "create_connection", nobody)
    assert "nobody there" in failure_of("nats://somewhere")
    assert asked == [("somewhere", 4222)]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:4222",
        "127.0.0.1:4222",
        "nats://",
        "nats://:4222",
        "nats://127.0.0.1:port",
        "nats://127.0.0.1:99999",
        "nats://[::1:4222",
        "",
    ],
)
def test_a_url_that_can_never_work_is_refused_before_connecting(url: str) -> None:
    with pytest.raises(UrlError, match="nats://host:4222"):
        Connection(url, name="test")


@pytest.mark.parametrize("wrong", ["s3/cret", "s3#cret", "s3?cret", "s3[cret", "12/s3cret"])
def test_a_password_that_should_have_been_encoded_is_not_shown(wrong: str) -> None:
    with pytest.raises(UrlError) as caught:
        Connection(f"nats://alarm:{wrong}@somewhere:4222", name="test")
    assert "nats://somewhere:4222" in str(caught.value)
    assert not {"s3", "cret", "12"} & set(str(caught.value).replace("/", " ").split())
    assert "cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "a traceback would show it"


# -- let in or refused -----------------------------------------------------------------------------


def test_user_and_password_are_percent_decoded() -> None:
    login = 'authorization { user: "al@rm", password: "p/ä: %" }'
    with NatsServer(jetstream=False, extra=login) as server:
        place = f"{HOST}:{server.port}"
        with talk(f"nats://al%40rm:p%2F%C3%A4%3A%20%25@{place}") as peer:
            peer.flush()
            assert peer.connection.url == f"nats://{place}"


def test_a_token_is_percent_decoded() -> None:
    with (
        NatsServer(jetstream=False, extra='authorization { token: "t/k:n@" }') as server,
        talk(f"nats://t%2Fk%3An%40@{HOST}:{server.port}") as peer,
    ):
        peer.flush()


def test_a_wrong_password_is_reported_at_once_and_never_shown() -> None:
    login = 'authorization { user: alarm, password: "right", timeout: 20 }'
    with NatsServer(jetstream=False, extra=login) as server:
        start = time.monotonic()
        said = failure_of(f"nats://alarm:s3cret@{HOST}:{server.port}", timeout=20)
        assert time.monotonic() - start < 5
    assert "Authorization Violation" in said
    assert f"nats://{HOST}:{server.port}" in said
    assert "s3cret" not in said


def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    # "::" and not "::1", because the server's own helper looks for it on 127.0.0.1.
    with (
        NatsServer(jetstream=False, extra='host: "::"') as server,
        talk(f"nats://[::1]:{server.port}") as peer,
    ):
        peer.flush()


def test_nobody_listens() -> None:
    port = free_port()
    assert failure_of(f"nats://{HOST}:{port}").startswith(f"nats://{HOST}:{port}: ")


@contextmanager
def greeter(says: bytes) -> Iterator[int]:
    """What no nats-server of today can be made to be: says this, then nothing more."""
    kept: list[socket.socket] = []

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        kept.append(connection)
        connection.sendall(says)

    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(5)
    for connection in kept:
        connection.close()


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (b'INFO {"version":"2.1.9","max_payload":1048576}\r\n', "headers"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak NATS"),
        (b"INFO nonsense\r\n", "unreadable INFO"),
        (b"INFO [1]\r\n", "unreadable INFO"),
        (b"", "said nothing within 0.5 s"),
    ],
)
def test_who_is_no_server_for_us_is_told_apart(says: bytes, expected: str) -> None:
    with greeter(says) as port, pytest.raises(ConnectFailed, match=expected):
        Connection(f"nats://{HOST}:{port}", name="test", timeout=0.5).connect()


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NatsServer, Path]]:
    """A server that insists on TLS, and the file with the authority that vouches for it."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    extra = f'tls {{ cert_file: "{folder}/cert.pem", key_file: "{folder}/key.pem" }}'
    with NatsServer(jetstream=False, extra=extra) as server:
        yield server, folder / "ca.pem"


@pytest.mark.parametrize("scheme", ["tls", "nats"])
def test_tls_with_a_trusted_certificate(
    tls_server: tuple[NatsServer, Path], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = tls_server
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with talk(f"{scheme}://{HOST}:{server.port}") as peer:
        assert peer.connection.info["tls_required"]
        body = b"x" * 300_000  # many TLS records
        peer.connection.send(b"SUB a  1\r\nPUB a %d\r\n%b\r\n" % (len(body), body))
        peer.read_until(lambda: peer.count(frames.MSG))
        assert peer.frames[-1][-1] == body


def test_what_waits_within_the_tls_layer_is_not_left_there(
    tls_server: tuple[NatsServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is silent then: a record has been taken from it whole."""
    server, authority = tls_server
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with talk(f"tls://{HOST}:{server.port}") as peer:
        peer.connection.send(b"SUB a  1\r\nPUB a 9000\r\n%b\r\n" % bytes(9000))
        buffer, received = bytearray(100), 0
        while received < len(b"MSG a 1 9000\r\n\r\n") + 9000:
            count = peer.connection.receive_into(buffer, 0, 1)
            assert count > 0, f"nothing more after {received} bytes"
            received += count


@pytest.mark.parametrize("scheme", ["tls", "nats"])
def test_tls_with_an_unknown_certificate_is_refused(
    tls_server: tuple[NatsServer, Path], scheme: str
) -> None:
    server, _authority = tls_server
    assert "certificate verify failed" in failure_of(f"{scheme}://{HOST}:{server.port}")


def test_tls_with_another_host_s_certificate_is_refused(
    tls_server: tuple[NatsServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = tls_server
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert "not valid for 'localhost'" in failure_of(f"tls://localhost:{server.port}")


def test_tls_asked_of_a_server_without_it_is_refused_in_plain_words() -> None:
    with NatsServer(jetstream=False) as server:
        assert "offers no TLS" in failure_of(f"tls://{HOST}:{server.port}")
