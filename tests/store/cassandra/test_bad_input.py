"""What cannot work ends with exit code 4, and one line that says what, where, and what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509 import load_pem_x509_certificate
from support.cassandra_node import CassandraNode
from support.command import run_command
from support.feeder import Feeder
from support.keyspaces import Keyspace, claimed, new_keyspace, record_of, run_cql
from support.nats_server import NatsServer, free_port
from support.rows import checkpoint
from support.stream_service import StreamService, settle
from support.wait import eventually
from trustme import CA

from alarmdigest.runtime import exit_codes
from alarmdigest.store import StoreError
from alarmdigest.store.cassandra.store import CassandraStore
from alarmdigest.store.cassandra.target import Target
from alarmdigest.store.lmdb.store import LmdbStore

pytestmark = pytest.mark.cassandra

PASSWORD = "throw away"


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def said(server: NatsServer, *options: str) -> str:
    """What a start says that must end with exit code 4."""
    service = StreamService(server.url, *options)
    service.start(ready=False)
    assert service.wait(60) == exit_codes.STORE_UNUSABLE, service.log
    [line] = [line for line in service.log.splitlines() if " ERROR " in line]
    return line


def checkpoints(service: StreamService) -> float:
    return service.metric("alarmdigest_checkpoints_total")


def test_nobody_there(server: NatsServer) -> None:
    address = f"127.0.0.1:{free_port()}"
    options = ["--store", "cassandra", "--cassandra", address, "--connect-timeout", "1s"]
    line = said(server, *options)
    assert f"cannot connect to the keyspace alarmdigest on {address}" in line


@pytest.mark.parametrize("options", [[], ["--cassandra-datacenter=datacenter1"]])
def test_a_start_waits_for_a_cluster_that_is_about_to_come(
    server: NatsServer, options: list[str]
) -> None:
    with CassandraNode() as node:
        mine = new_keyspace(node)
        node.kill()
        service = StreamService(server.url, *mine.options, *options)
        service.start(ready=False)
        service.wait_for_log("cannot connect to .* trying again")
        node.start()
        service.wait_for_log(r"\bready\b", timeout=60)
        service.stop()


def test_an_unknown_name(server: NatsServer) -> None:
    options = ["--cassandra", "no-such-host.invalid", "--connect-timeout", "1s"]
    line = said(server, "--store", "cassandra", *options)
    assert "none of the names is known" in line  # and may be, in a moment


def test_somebody_else_listens_there(server: NatsServer) -> None:
    options = ["--cassandra", server.url.removeprefix("nats://"), "--connect-timeout", "1s"]
    assert "there is no Cassandra" in said(server, "--store", "cassandra", *options)


def test_a_start_that_waits_can_be_stopped(server: NatsServer) -> None:
    service = StreamService(server.url, "--store=cassandra", f"--cassandra=127.0.0.1:{free_port()}")
    service.start(ready=False)
    service.wait_for_log("trying again")
    service.process.send_signal(signal.SIGTERM)
    assert service.wait(10) == exit_codes.CLEAN, service.log


def test_the_log_says_where_the_state_is(server: NatsServer, keyspace: Keyspace) -> None:
    with StreamService(server.url, *keyspace.options) as service:
        assert re.search(
            r"connected to Cassandra .*datacenter=datacenter1 version=5\.0\.6 "
            rf"keyspace={keyspace.target.keyspace} checkpoint=none",
            service.log,
        )


def test_options_that_nobody_heeds(server: NatsServer) -> None:
    done = run_command("check-config", "--server", server.url, "--cassandra=x,y")
    assert done.returncode == 0
    assert "--cassandra: of no effect" in done.stderr


def test_a_missing_keyspace(server: NatsServer, keyspace: Keyspace) -> None:
    line = said(server, *keyspace.options, "--cassandra-keyspace", "nowhere")
    assert "there is no keyspace nowhere" in line
    assert "alarmdigest schema" in line


def test_another_data_centre(server: NatsServer, keyspace: Keyspace) -> None:
    line = said(server, *keyspace.options, "--cassandra-datacenter", "mars")
    assert "there is no data centre mars, only datacenter1: see --cassandra-datacenter" in line


def test_a_table_of_somebody_else(server: NatsServer, keyspace: Keyspace) -> None:
    run_cql(keyspace, f"CREATE TABLE {keyspace.target.keyspace}.state (p blob PRIMARY KEY)")
    assert "is not one of alarmdigest's" in said(server, *keyspace.options)


def test_the_state_of_a_service_on_other_streams(server: NatsServer, keyspace: Keyspace) -> None:
    with StreamService(server.url, *keyspace.options) as service:
        service.stop()
        service.change(*keyspace.options, "--events-stream", "OTHERS", "--mode", "stream")
        service.start(ready=False)
        assert service.wait(60) == exit_codes.USAGE
        name = keyspace.target.keyspace
        assert f"the store in the keyspace {name} was fed by the stream ALARMS" in service.log
        assert "choose another --cassandra-keyspace" in service.log


def test_a_keyspace_by_mistake_does_no_harm(
    server: NatsServer, keyspace: Keyspace, tmp_path: Path
) -> None:
    """Whoever has no business with what is stored is refused before it takes the store."""
    other_streams = ["--events-stream=OTHERS", "--digests-stream=OTHER_DIGESTS"]
    other_streams += ["--rejected-stream=OTHER_REJECTED", "--event-subject=Other"]
    other_streams += ["--request-subject=OtherSend", "--digest-subject=OtherDigest"]
    other_streams += ["--rejected-subject=OtherRejected"]
    with (
        StreamService(server.url, *keyspace.options) as service,
        Feeder(server.url, seed=75, rate=100),
    ):
        eventually(
            lambda: service.metric("alarmdigest_checkpoints_total"), timeout=30, what="a checkpoint"
        )
        before = record_of(keyspace).owner
        for mistake in (["--mode=core"], ["--mode=stream", *other_streams]):
            other = StreamService(server.url, *keyspace.options, *mistake)
            other.start(ready=False)
            assert other.wait(60) == exit_codes.USAGE, other.log
            assert "another --cassandra-keyspace" in other.log
        options = [*keyspace.options[1:], f"--data-dir={tmp_path}"]
        with LmdbStore(tmp_path) as store:
            store.commit([], checkpoint(0))
        copied = run_command("copy-store", "--from=lmdb", "--to=cassandra", *options)
        assert copied.returncode == exit_codes.STORE_UNUSABLE
        assert "there is a state already" in copied.stderr
        assert record_of(keyspace).owner == before
        written = service.metric("alarmdigest_checkpoints_total")
        eventually(
            lambda: service.metric("alarmdigest_checkpoints_total") > written,
            timeout=30,
            what="another",
        )


def test_check_config_looks_at_the_keyspace(server: NatsServer, keyspace: Keyspace) -> None:
    def check(*options: str) -> tuple[int, str]:
        done = run_command("check-config", "--server", server.url, *keyspace.options, *options)
        return done.returncode, done.stderr

    name = keyspace.target.keyspace
    assert check()[0] == 0  # nothing is there yet
    assert check("--cassandra-keyspace=nowhere")[0] == exit_codes.USAGE
    assert "there is no keyspace nowhere" in check("--cassandra-keyspace=nowhere")[1]
    assert "there is no data centre mars" in check("--cassandra-datacenter=mars")[1]
    away = ["--store=cassandra", f"--cassandra=127.0.0.1:{free_port()}"]
    done = run_command("check-config", "--server", server.url, *away)
    assert done.returncode == 0
    assert "the store was not looked at: cannot connect to the keyspace alarmdigest" in done.stderr
    with claimed(keyspace.target) as store:
        store.commit([], checkpoint(0))
        before = record_of(keyspace)
        code, said = check("--events-stream=OTHERS")
        assert code == exit_codes.USAGE
        assert f"the store in the keyspace {name} was fed by the stream ALARMS" in said
        assert check()[0] == 0
        assert record_of(keyspace) == before


def test_nodes_that_take_small_writes_only(server: NatsServer) -> None:
    with CassandraNode(settings={"max_mutation_size": "60KiB"}) as node:
        mine = new_keyspace(node)
        line = said(server, *mine.options)
        assert "the node refuses writes as large as ours" in line


@pytest.mark.timeout(300)
def test_a_node_that_may_lose_what_it_confirmed(
    server: NatsServer, tell: Callable[[str], None]
) -> None:
    """It is warned of; and when it happens, everything is written anew, and nothing is lost. A node
    that is killed does not always lose something; test_ownership.py takes it away for certain."""
    periodic = {
        "commitlog_sync": "periodic",
        "commitlog_sync_period": "1000s",
        "commitlog_sync_group_window": None,
    }
    with CassandraNode(settings=periodic) as node:
        mine = new_keyspace(node)
        options = [*mine.options, "--cassandra-timeout", "1s"]
        with (
            StreamService(server.url, *options) as service,
            Feeder(server.url, seed=91, rate=200) as feeder,
        ):
            assert "commitlog_sync: periodic" in service.log

            def checkpoints() -> float:
                return service.metric("alarmdigest_checkpoints_total")

            for _ in range(2):
                before = checkpoints()
                eventually(lambda: checkpoints() > before + 5, timeout=60, what="checkpoints")  # noqa: B023
                node.kill()
                node.start()
            before = checkpoints()
            eventually(lambda: checkpoints() > before + 2, timeout=60, what="checkpoints")
            lost = service.log.count("has lost what it had confirmed")
            tell(f"Cassandra, commit log periodic, killed twice: lost something {lost} times")
            service.kill()
            service.start()
            settle(server.url, service, feeder)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CassandraNode, Path]]:
    """A node with TLS that asks who one is, and the certificate of its authority."""
    folder = tmp_path_factory.mktemp("tls")
    authority = CA()
    certificate = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    chain = [load_pem_x509_certificate(one.bytes()) for one in certificate.cert_chain_pems]
    encrypted = BestAvailableEncryption(PASSWORD.encode())
    store = pkcs12.serialize_key_and_certificates(b"node", key, chain[0], chain[1:], encrypted)  # type: ignore[arg-type]
    (folder / "keystore.p12").write_bytes(store)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    settings = {
        "authenticator": "PasswordAuthenticator",
        "authorizer": "CassandraAuthorizer",
        "client_encryption_options": {
            "enabled": True,
            "keystore": str(folder / "keystore.p12"),
            "keystore_password": PASSWORD,
            "store_type": "PKCS12",
        },
    }
    with CassandraNode(settings=settings) as node:
        yield node, folder / "ca.pem"


@pytest.fixture(scope="module")
def guarded(secured: tuple[CassandraNode, Path]) -> Keyspace:
    """A keyspace there, as its superuser sees it."""
    node, ca = secured
    base = Target(
        ((node.host, node.port),), "system", user="cassandra", password="cassandra",
        tls=True, tls_ca=ca,
    )  # fmt: skip
    return new_keyspace(node, base=base)


def options_of(keyspace: Keyspace, folder: Path, password: str = "cassandra") -> list[str]:
    file = folder / "password"
    file.write_text(password + "\n")
    login = ["--cassandra-user", keyspace.target.user, "--cassandra-password-file", str(file)]
    return [*keyspace.options, *login, "--cassandra-tls-ca", str(keyspace.target.tls_ca)]


def test_tls_and_a_login(server: NatsServer, guarded: Keyspace, tmp_path: Path) -> None:
    with StreamService(server.url, *options_of(guarded, tmp_path)) as service:
        service.stop()
    shown = run_command("backup", str(tmp_path / "b"), *options_of(guarded, tmp_path))
    assert shown.returncode == 0, shown.stderr


def test_a_wrong_password(server: NatsServer, guarded: Keyspace, tmp_path: Path) -> None:
    line = said(server, *options_of(guarded, tmp_path, "wrong"))
    assert "the login was refused: see --cassandra-user" in line


def test_certificates_of_another_authority(
    server: NatsServer, guarded: Keyspace, tmp_path: Path
) -> None:
    CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    other = Keyspace(replace(guarded.target, tls_ca=tmp_path / "other.pem"))
    line = said(server, *options_of(other, tmp_path))
    assert "certificate verify failed" in line


def test_no_tls_where_the_node_wants_it(
    server: NatsServer, guarded: Keyspace, tmp_path: Path
) -> None:
    options = options_of(guarded, tmp_path)
    line = said(server, *options[: options.index("--cassandra-tls-ca")])
    assert "cannot connect to" in line


def test_a_missing_permission(guarded: Keyspace) -> None:
    with CassandraStore(guarded.target):
        pass  # it has the table
    run_cql(guarded, "CREATE ROLE IF NOT EXISTS reader WITH PASSWORD = 'x' AND LOGIN = true")
    run_cql(guarded, f"GRANT SELECT ON KEYSPACE {guarded.target.keyspace} TO reader")
    with pytest.raises(StoreError, match="a permission is missing") as refused:
        CassandraStore(replace(guarded.target, user="reader", password="x"))
    assert "MODIFY" in str(refused.value)
    # What docs/cassandra.md grants is enough.
    run_cql(guarded, f"GRANT MODIFY ON KEYSPACE {guarded.target.keyspace} TO reader")

    def opens() -> bool:  # permissions are known for some seconds
        try:
            CassandraStore(replace(guarded.target, user="reader", password="x")).close()
        except StoreError:
            return False
        return True

    eventually(opens, timeout=30, interval=0.5, what="the permission to count")
