"""Logging in to a real nats-server: passwords, tokens, nkeys, credentials files, certificates."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from support.command import run_command
from support.credentials import Certificates, certificates, private, realm, user
from support.nats_server import HOST, NatsServer
from support.service import ServiceProcess
from support.surroundings import Surrounded
from support.wait import eventually

from alarmdigest.nats.auth import Login
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectFailed, LoginError
from alarmdigest.runtime import pipes


@contextmanager
def connected(url: str, login: Login) -> Iterator[Connection]:
    connection = Connection(url, name="test", login=login, timeout=5.0)
    connection.connect()
    try:
        yield connection
    finally:
        connection.close()


def refusal(url: str, login: Login) -> str:
    with pytest.raises(ConnectFailed) as caught, connected(url, login):
        pass
    return str(caught.value)


# -- who we are ------------------------------------------------------------------------------------


def test_a_user_and_password_or_a_password_file(tmp_path: Path) -> None:
    extra = 'authorization { user: alarm, password: "s3cret" }'
    file = private(tmp_path / "password", "s3cret\n")
    with NatsServer(jetstream=False, extra=extra) as server:
        with connected(server.url, Login(user="alarm", password="s3cret")):
            pass
        with connected(server.url, Login(user="alarm", password_file=file)):
            pass
        private(file, "wr0ng")
        said = refusal(server.url, Login(user="alarm", password_file=file))
        assert "Authorization Violation" in said
        assert "wr0ng" not in said
        private(file, "s3cret")  # read again at each connection
        with connected(server.url, Login(user="alarm", password_file=file)):
            pass


def test_a_token_or_a_token_file_and_a_url_goes_before(tmp_path: Path) -> None:
    file = private(tmp_path / "token", "t0ken\n")
    with NatsServer(jetstream=False, extra='authorization { token: "t0ken" }') as server:
        with connected(server.url, Login(token="t0ken")):
            pass
        with connected(server.url, Login(token_file=file)):
            pass
        assert "Authorization Violation" in refusal(server.url, Login(token="other"))
        with connected(f"nats://t0ken@{HOST}:{server.port}", Login(token="other")):
            pass


@pytest.mark.parametrize("decorated", [False, True])
def test_an_nkey_signs_the_nonce(tmp_path: Path, decorated: bool) -> None:
    identity = user()
    seed = identity.seed
    if decorated:
        seed = f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------"
    login = Login(nkey=private(tmp_path / "user.nk", f"{seed}\n"))
    extra = f"authorization {{ users: [ {{ nkey: {identity.public} }} ] }}"
    with NatsServer(jetstream=False, extra=extra) as server:
        with connected(server.url, login):
            pass
        private(tmp_path / "user.nk", user().seed)
        assert "Authorization Violation" in refusal(server.url, login)


def test_a_credentials_file_is_taken_by_a_server_that_trusts_its_operator(tmp_path: Path) -> None:
    ours, foreign = realm(), realm()
    login = Login(creds=private(tmp_path / "user.creds", ours.creds))
    with NatsServer(jetstream=False, extra=ours.server_config) as server:
        with connected(server.url, login):
            pass
        private(tmp_path / "user.creds", foreign.creds)
        assert "Authorization Violation" in refusal(server.url, login)


def test_a_server_that_asks_for_no_signature_is_told_of(tmp_path: Path) -> None:
    login = Login(nkey=private(tmp_path / "user.nk", user().seed))
    with NatsServer(jetstream=False) as server:
        assert "asks for no signature" in refusal(server.url, login)


@pytest.mark.parametrize(
    ("login", "text", "said"),
    [
        ("nkey", "SUAnonsense", "holds no seed of a user"),
        ("nkey", "", "holds no seed of a user"),
        ("creds", "SUAnonsense", "holds no block with a JWT"),
        ("creds", "-----BEGIN NATS USER JWT-----\nx\n-----END ", "holds no block with a SEED"),
        ("token_file", "SUAnonsense\nmore\n", "must hold one line"),
        ("password_file", "", "must hold one line"),
        ("token_file", "x" * 70_000, "too large"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_shown(
    tmp_path: Path, login: str, text: str, said: str
) -> None:
    file = private(tmp_path / "file", text)
    named = {"user": "alarm"} if login == "password_file" else {}
    with pytest.raises(LoginError) as caught:
        Login(**named, **{login: file}).check()  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "nonsense" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_missing_file_is_named() -> None:
    for login in (Login(creds=Path("/no/such")), Login(tls_ca=Path("/no/such"))):
        with pytest.raises(LoginError, match=r"/no/such: .*No such file"):
            login.check()


@pytest.mark.parametrize("command", ["run", "check-config"])
@pytest.mark.parametrize("variable", ["NATS_NKEY", "NATS_CREDS", "ALARMDIGEST_NKEY"])
@pytest.mark.parametrize("decorated", [False, True])
def test_a_seed_where_its_file_belongs_is_not_shown(
    command: str, variable: str, decorated: bool
) -> None:
    seed = realm().creds if decorated else user().seed
    result = run_command(command, NATS_URL="nats://127.0.0.1:1", **{variable: seed})
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "alarmdigest: that is a seed, not a file: put it into a file that only you may read, "
        "and name that\n"
    )


WITHOUT_NKEYS = """
import sys
sys.modules["nkeys"] = None
from alarmdigest.cli.main import main
sys.exit(main())
"""


def test_without_the_package_nkeys_a_login_that_needs_it_fails_at_the_start(tmp_path: Path) -> None:
    file = private(tmp_path / "user.nk", user().seed)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NKEYS, "run", "--nkey", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "pip install 'alarmdigest[nkeys]'" in done.stderr


# -- who others may read ---------------------------------------------------------------------------


def test_a_file_that_everybody_can_read_is_warned_of_and_one_they_can_write_refused(
    tmp_path: Path,
) -> None:
    file = private(tmp_path / "token", "t0ken")
    login = Login(token_file=file)
    assert login.check() == []
    for mode in (0o640, 0o440, 0o400):  # as secrets are mounted for the group of a service
        file.chmod(mode)
        assert login.check() == []
    for mode in (0o604, 0o444, 0o660):
        file.chmod(mode)
        [warning] = login.check()
        assert f"chmod 600 {file}" in warning
    file.chmod(0o602)
    with pytest.raises(LoginError, match="everybody may write"):
        login.check()


# -- files that can be read only once --------------------------------------------------------------


def piped(text: str) -> tuple[int, Path]:
    """As ``<(command)`` of a shell: the reading end, and how it is called."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return reading, Path(f"/dev/fd/{reading}")


def test_secrets_may_come_out_of_pipes_and_count_for_every_connection() -> None:
    extra = 'authorization { user: alarm, password: "s3cret" }'
    fd, file = piped("s3cret\n")
    login = Login(user="alarm", password_file=file)
    with NatsServer(jetstream=False, extra=extra) as server:
        assert login.check() == []
        for _ in range(2):
            with connected(server.url, login):
                pass
    assert login.contents() == login.contents()
    os.close(fd)


def test_a_named_pipe_may_be_written_later(tmp_path: Path) -> None:
    fifo = tmp_path / "token"
    os.mkfifo(fifo, 0o600)
    writer = threading.Timer(0.2, fifo.write_text, ["t0ken"])
    writer.start()
    assert Login(token_file=fifo).connect_fields("") == {"auth_token": "t0ken"}
    writer.join()


def test_a_pipe_that_stays_silent_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "TIMEOUT_S", 0.1)
    fifo = tmp_path / "token"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(LoginError, match=r"cannot read .*/token: it is a pipe, silent for 0\.1 s"):
        Login(token_file=fifo).check()


@pytest.mark.parametrize("name", ["tls_ca", "tls_cert", "tls_key"])
def test_certificates_and_keys_in_pipes_are_refused(name: str, tmp_path: Path) -> None:
    made = certificates(tmp_path)
    fd, file = piped("-----BEGIN")
    files = {"tls_ca": made.ca, "tls_cert": made.cert, "tls_key": made.key, name: file}
    with pytest.raises(LoginError, match=rf"{file} is a pipe, .* put it into a file"):
        Login(**files).check()  # type: ignore[arg-type]
    os.close(fd)


def test_the_service_reads_its_pipes_once_and_hangs_up_and_connects_again() -> None:
    shell = "exec 8< <(echo s3cret) 9< <(echo workers = 3; echo user = '\"alarm\"')"
    options = ["--password-file", "/dev/fd/8", "--config", "/dev/fd/9"]
    extra = 'authorization { user: alarm, password: "s3cret" }'
    with (
        NatsServer(jetstream=False, extra=extra) as server,
        Surrounded(server.url, shell=shell, options=options) as service,
    ):
        service.wait_until_ready()
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: "nothing has changed" in service.log, what="the settings read again")
        server.kill()
        eventually(lambda: service.http("/readyz")[0] == 503, what="the loss")
        server.start()
        service.wait_until_ready()
        assert service.stop() == 0
        assert "s3cret" not in service.log


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module", params=[False, True], ids=["info first", "handshake first"])
def strict(request: pytest.FixtureRequest, ours: Certificates) -> Iterator[tuple[str, bool]]:
    """The URL of a server that demands certificates, and whether TLS comes first there."""
    first = "handshake_first: true" if request.param else "handshake_first: false"
    extra = ours.server_config("verify: true", first)
    # Whoever looks whether it is up sees nothing but a silent server.
    with NatsServer(jetstream=False, extra=extra, speaks_first=not request.param) as server:
        yield server.url, request.param


def test_the_right_authority_and_our_certificate_let_us_in(
    strict: tuple[str, bool], ours: Certificates
) -> None:
    url, first = strict
    login = Login(
        tls_ca=ours.ca, tls_cert=ours.client_cert, tls_key=ours.client_key, tls_first=first
    )
    assert login.check() == []
    with connected(url, login) as connection:
        assert connection.info["server_name"].startswith("test-")


def test_a_server_of_another_authority_is_refused(
    strict: tuple[str, bool], ours: Certificates, foreign: Certificates
) -> None:
    url, first = strict
    login = Login(
        tls_ca=foreign.ca, tls_cert=ours.client_cert, tls_key=ours.client_key, tls_first=first
    )
    assert "certificate verify failed" in refusal(url, login)


def test_without_a_certificate_of_ours_a_server_that_asks_refuses_us(
    strict: tuple[str, bool], ours: Certificates
) -> None:
    url, first = strict
    assert "certificate" in refusal(url, Login(tls_ca=ours.ca, tls_first=first)).lower()


def test_a_server_that_waits_for_tls_is_guessed(ours: Certificates) -> None:
    extra = ours.server_config("handshake_first: true")
    with NatsServer(jetstream=False, extra=extra, speaks_first=False) as server:
        connection = Connection(server.url, name="test", login=Login(tls_ca=ours.ca), timeout=0.3)
        with pytest.raises(
            ConnectFailed, match=r"within 0\.3 s: it hangs, or .* needs --tls-first"
        ):
            connection.connect()


def test_a_server_that_hangs_is_not_taken_for_one_that_waits_for_tls(ours: Certificates) -> None:
    """Without --tls-first it may be either; with it, only one of them is left."""
    with NatsServer(jetstream=False) as server:
        server.pause()
        for first, said in (
            (False, r"said nothing within 0\.3 s: it hangs, or waits for TLS"),
            (True, r"no TLS handshake within 0\.3 s: the server hangs, or is far"),
        ):
            login = Login(tls_ca=ours.ca, tls_first=first)
            connection = Connection(server.url, name="test", login=login, timeout=0.3)
            with pytest.raises(ConnectFailed, match=said):
                connection.connect()


def test_a_server_that_does_not_begin_with_tls_is_told(ours: Certificates) -> None:
    with NatsServer(jetstream=False, extra=ours.server_config("handshake_first: false")) as server:
        said = refusal(server.url, Login(tls_ca=ours.ca, tls_first=True))
    assert "does not begin with TLS: leave out --tls-first" in said


def test_an_own_authority_means_tls_also_with_a_plain_url(ours: Certificates) -> None:
    with NatsServer(jetstream=False) as server:
        assert "offers no TLS" in refusal(server.url, Login(tls_ca=ours.ca))


def test_files_that_do_not_fit_are_named(ours: Certificates, foreign: Certificates) -> None:
    login = Login(tls_cert=ours.client_cert, tls_key=foreign.client_key)
    with pytest.raises(LoginError, match=f"{ours.client_cert} with the key {foreign.client_key}"):
        login.check()
    with pytest.raises(LoginError, match=str(ours.key)):
        Login(tls_ca=ours.key).check()


IN_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from alarmdigest.cli.main import main
sys.exit(main())
"""


def test_an_encrypted_key_is_refused_and_nobody_is_asked(
    ours: Certificates, tmp_path: Path
) -> None:
    """Also where somebody could be asked: with a terminal OpenSSL waits for a passphrase there."""
    key = serialization.load_pem_private_key(ours.client_key.read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"s3cret"),
    )
    file = private(tmp_path / "locked.key", locked.decode())
    options = ("--server", "a", "--tls-cert", str(ours.client_cert), "--tls-key", str(file))
    terminal, its = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", IN_A_TERMINAL, "check-config", *options],
            stdin=its,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            timeout=10,
        )
    finally:
        os.close(terminal)
        os.close(its)
    assert done.returncode == 2
    assert "not encrypted" in done.stderr


# -- the programs ----------------------------------------------------------------------------------


def test_service_and_tools_log_in_with_a_credentials_file_and_show_nothing_of_it(
    tmp_path: Path,
) -> None:
    ours = realm()
    creds = private(tmp_path / "user.creds", ours.creds)
    seed = ours.creds.splitlines()[-2]
    options = ("--creds", str(creds))
    with (
        NatsServer(jetstream=False, extra=ours.server_config) as server,
        ServiceProcess(server.url, options=(*options, "--log-level", "debug")) as service,
    ):
        done = subprocess.run(
            [sys.executable, "-m", "alarmdigest", "verify", "--server", server.url, *options],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("\n") == 1  # which server it tests
        assert seed not in service.log
        assert service.stop() == 0


def test_secrets_are_in_no_log_and_no_list_of_processes() -> None:
    environment = {"ALARMDIGEST_USER": "alarm", "ALARMDIGEST_PASSWORD": "s3cret"}
    extra = 'authorization { user: alarm, password: "s3cret" }'
    with NatsServer(jetstream=False, extra=extra) as server:
        options = ("--log-level", "debug")
        with ServiceProcess(server.url, options=options, environment=environment) as service:
            arguments = Path(f"/proc/{service.process.pid}/cmdline").read_text()
            pages = [service.http(path)[1] for path in ("/metrics", "/readyz", "/healthz")]
            assert service.stop() == 0
            for text in (arguments, service.log, *pages):
                assert "s3cret" not in text
        wrong = environment | {"ALARMDIGEST_PASSWORD": "wr0ng"}
        refused = ServiceProcess(
            server.url, options=(*options, "--connect-timeout", "300ms"), environment=wrong
        ).start(ready=False)
        assert refused.wait() == 3
        assert "Authorization Violation" in refused.log
        assert "wr0ng" not in refused.log


def test_an_expired_certificate_of_the_server_ends_with_3_and_says_so(tmp_path: Path) -> None:
    old = certificates(tmp_path, not_after=datetime(2020, 1, 1, tzinfo=timezone.utc))
    with NatsServer(jetstream=False, extra=old.server_config()) as server:
        options = ("--tls-ca", str(old.ca), "--connect-timeout", "300ms")
        service = ServiceProcess(server.url, options=options).start(ready=False)
        assert service.wait() == 3
        assert "certificate has expired" in service.log.splitlines()[-1]


@pytest.mark.parametrize(
    "option", ["--tls-ca", "--creds", "--nkey", "--token-file", "--password-file"]
)
@pytest.mark.parametrize("trouble", ["missing", "overwritable"])
def test_a_file_that_cannot_be_used_ends_the_service_with_2(
    tmp_path: Path, option: str, trouble: str
) -> None:
    file = tmp_path / "file"
    if trouble == "overwritable":
        private(file, "s3cret").chmod(0o666)
    options = [option, str(file), "--server", "nats://127.0.0.1:1", "--data-dir", str(tmp_path)]
    if option == "--password-file":
        options += ["--user", "alarm"]
    done = subprocess.run(
        [sys.executable, "-m", "alarmdigest", *options],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert str(file) in done.stderr
    assert "s3cret" not in done.stderr
    assert "Traceback" not in done.stderr
