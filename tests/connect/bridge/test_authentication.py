"""Who may post alerts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import trustme
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.nats_server import NatsServer
from support.wait import eventually

from alarmdigest.runtime import exit_codes

BODY = json.dumps(webhook(alert(user="ada"))).encode()

pytestmark = pytest.mark.bridge


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        Streams(server).close()
        yield server


def basic(login: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_each_way_that_is_configured_will_do(server: NatsServer, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("one\ntwo\n")
    (tmp_path / "logins").write_text("netdata:secret:with:colons\n")
    rules = f'[http]\nbearer_file = "{tmp_path}/tokens"\nbasic_file = "{tmp_path}/logins"'
    with BridgeProcess(server.url, rules=rules) as bridge:
        for right in (bearer("one"), bearer("two"), basic("netdata:secret:with:colons")):
            assert bridge.post("/alertmanager", BODY, right)[0] == 200
        for wrong in (
            {},
            bearer("three"),
            bearer(""),
            bearer("one two"),
            basic("one:"),
            basic("netdata:secret"),
            basic(""),
            {"Authorization": "Basic ???"},
            {"Authorization": "Digest one"},
            {"X-Token": "one"},
        ):
            status, answer = bridge.post("/alertmanager", BODY, wrong)
            assert status == 401, wrong
            assert "one" not in answer["error"]
        assert bridge.http("/readyz") == (200, "ok\n"), "a probe needs no token"
        sample = 'alarmdigest_bridge_requests_total{code="401",sender="alertmanager"}'
        assert bridge.metric(sample) == 10
        assert "secret" not in bridge.log


def test_a_wrong_token_is_refused_before_the_body_is_looked_at(
    server: NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("one")
    rules = f'[http]\nmax_body = "10KiB"\nbearer_file = "{tmp_path}/tokens"'
    with BridgeProcess(server.url, rules=rules) as bridge:
        assert bridge.post("/alertmanager", b"x" * 100_000, bearer("two"))[0] == 401
        assert bridge.post("/alertmanager", b"x" * 100_000, bearer("one"))[0] == 413


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("bearer_file", None, "cannot read"),
        ("bearer_file", "\n \n", "has no line"),
        ("basic_file", "nobody", "write name:password"),
    ],
)
def test_files_that_cannot_be_used_end_the_start(
    key: str, text: str | None, said: str, server: NatsServer, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "file").write_text(text)
    bridge = BridgeProcess(server.url, rules=f'[http]\n{key} = "{tmp_path}/file"')
    try:
        assert bridge.start(ready=False).wait() == exit_codes.USAGE
        assert said in bridge.log
    finally:
        bridge.end()


def test_netdata_clouds_challenge(server: NatsServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("shared\n")
    rules = f'[http]\nnetdata_secret_file = "{tmp_path}/secret"'
    with BridgeProcess(server.url, rules=rules) as bridge:
        expected = base64.b64encode(hmac.digest(b"shared", b"abc", hashlib.sha256)).decode()
        status, text = bridge.http("/netdata-cloud?crc_token=abc")
        assert (status, json.loads(text)) == (200, {"response_token": f"sha256={expected}"})
        assert bridge.http("/netdata-cloud")[0] == 405
    with BridgeProcess(server.url) as bridge:
        assert bridge.http("/netdata-cloud?crc_token=abc")[0] == 404


class Authority:
    """Certificates of one CA, as files."""

    def __init__(self, folder: Path, name: str) -> None:
        self._ca = trustme.CA()
        self.file = folder / f"{name}-ca.pem"
        self._ca.cert_pem.write_to_path(self.file)
        self._folder = folder

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key."""
        issued = self._ca.issue_cert(name, common_name=None if "@" in name else name)
        cert, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        cert.unlink(missing_ok=True)
        issued.private_key_pem.write_to_path(key)
        for part in issued.cert_chain_pems:
            part.write_to_path(cert, append=True)
        return cert, key


def post_over_tls(
    bridge: BridgeProcess, authority: Authority, certificate: tuple[Path, Path] | None
) -> int:
    context = ssl.create_default_context(cafile=authority.file)
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(*certificate)
    connection = http.client.HTTPSConnection(*bridge.address, timeout=10, context=context)
    try:
        connection.request("POST", "/netdata-cloud", b'{"message": "x", "token": "y"}')
        return connection.getresponse().status
    finally:
        connection.close()


def test_mutual_tls(server: NatsServer, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    cert, key = ours.issue("127.0.0.1")
    rules = f"""[http]
tls_cert = "{cert}"
tls_key = "{key}"
tls_client_ca = "{ours.file}"
tls_client_names = ["app.netdata.cloud"]
"""
    with BridgeProcess(server.url, rules=rules) as bridge:
        assert "https://" in bridge.log
        assert post_over_tls(bridge, ours, ours.issue("app.netdata.cloud")) == 200
        assert post_over_tls(bridge, ours, ours.issue("other.example.com")) == 401
        assert post_over_tls(bridge, ours, None) == 401
        with pytest.raises((ssl.SSLError, OSError)):
            post_over_tls(bridge, ours, theirs.issue("app.netdata.cloud"))
        assert post_over_tls(bridge, ours, ours.issue("app.netdata.cloud")) == 200


def test_a_certificate_without_any_name_will_do_where_no_name_is_asked_for(
    server: NatsServer, tmp_path: Path
) -> None:
    ours = Authority(tmp_path, "ours")
    cert, key = ours.issue("127.0.0.1")
    rules = f'[http]\ntls_cert = "{cert}"\ntls_key = "{key}"\ntls_client_ca = "{ours.file}"'
    with BridgeProcess(server.url, rules=rules) as bridge:
        assert post_over_tls(bridge, ours, ours.issue("someone@example.com")) == 200
        assert post_over_tls(bridge, ours, None) == 401


def test_silent_clients_of_the_tls_port_hold_up_nobody(server: NatsServer, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    cert, key = ours.issue("127.0.0.1")
    rules = f'[http]\ntls_cert = "{cert}"\ntls_key = "{key}"'
    with BridgeProcess(server.url, rules=rules) as bridge, ExitStack() as stack:
        silent = [
            stack.enter_context(closing(socket.create_connection(bridge.address, timeout=20)))
            for _ in range(500)
        ]
        assert post_over_tls(bridge, ours, None) == 200
        began = time.monotonic()
        with suppress(ConnectionError):
            assert silent[0].recv(1) == b""
        assert time.monotonic() - began < 15, "asyncio would bear it for a minute"


def test_sighup_says_what_it_did_not_apply_and_who_may_send_now(
    server: NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("# of Alertmanager\none\n")
    rules = f'[http]\nbearer_file = "{tmp_path}/tokens"'
    with BridgeProcess(server.url, rules=rules, listen="0.0.0.0:0") as bridge:
        assert "everybody who reaches" not in bridge.log
        assert bridge.post("/alertmanager", BODY, bearer("# of Alertmanager"))[0] == 401
        assert bridge.post("/alertmanager", BODY, bearer("one"))[0] == 200
        bridge.rules_file.write_text('[http]\ntimeout = "5s"\n[time]\nahead = "5m"')
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_for_log(r"counts from the next start on: \[time\], \[http\] timeout")
        bridge.wait_for_log("everybody who reaches")
        assert bridge.post("/alertmanager", BODY)[0] == 200


def test_a_ca_that_is_added_by_sighup_locks_nobody_out(server: NatsServer, tmp_path: Path) -> None:
    """It counts from the next start on: this one asks nobody for a certificate."""
    ours = Authority(tmp_path, "ours")
    cert, key = ours.issue("127.0.0.1")
    rules = f'[http]\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
    with BridgeProcess(server.url, rules=rules) as bridge:
        bridge.rules_file.write_text(f'{rules}tls_client_ca = "{ours.file}"\n')
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_for_log(r"next start on: \[http\] tls_client_ca")
        assert post_over_tls(bridge, ours, None) == 200


def test_a_renewed_certificate_counts_from_sighup_on(server: NatsServer, tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    cert, key = old.issue("127.0.0.1")
    with BridgeProcess(
        server.url, rules=f'[http]\ntls_cert = "{cert}"\ntls_key = "{key}"'
    ) as bridge:
        assert post_over_tls(bridge, old, None) == 200
        new.issue("127.0.0.1")
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_for_log("reloaded")
        assert eventually(lambda: post_over_tls(bridge, new, None)) == 200


def test_plain_http_to_the_tls_port_is_refused_and_harms_nobody(
    server: NatsServer, tmp_path: Path
) -> None:
    ours = Authority(tmp_path, "ours")
    cert, key = ours.issue("127.0.0.1")
    with BridgeProcess(
        server.url, rules=f'[http]\ntls_cert = "{cert}"\ntls_key = "{key}"'
    ) as bridge:
        for _ in range(5):
            with pytest.raises((OSError, http.client.HTTPException)):
                bridge.post("/alertmanager", BODY)
        assert post_over_tls(bridge, ours, None) == 200


def test_a_key_that_needs_a_password_ends_the_start(server: NatsServer, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    cert, key = Authority(tmp_path, "ours").issue("127.0.0.1")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    bridge = BridgeProcess(server.url, rules=f'[http]\ntls_cert = "{cert}"\ntls_key = "{key}"')
    try:
        assert bridge.start(ready=False).wait() == exit_codes.USAGE
        assert "encrypted" in bridge.log
    finally:
        bridge.end()


def test_open_to_everybody_is_warned_of(server: NatsServer) -> None:
    with BridgeProcess(server.url, listen="0.0.0.0:0") as bridge:
        assert "everybody who reaches" in bridge.log
