"""The command line as scripts see it: exit codes, messages, and the lines that they wait for."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from support.nats_server import HOST, NatsServer, free_port
from support.service import CLEAN_ENVIRONMENT, ServiceProcess

from alarmdigest import __version__
from alarmdigest.cli.arguments import COMMANDS
from alarmdigest.cli.option_groups import EVERYTHING, GROUPS
from alarmdigest.settings import SECRETS, Settings


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def run(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Give it a server or a mistake, so that it has one."""
    return subprocess.run(
        [sys.executable, "-m", "alarmdigest", *arguments],
        capture_output=True,
        text=True,
        env=CLEAN_ENVIRONMENT | (environment or {}),
        timeout=30,
    )


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default data directory is one below: somebody may run a service in the repository."""
    monkeypatch.chdir(tmp_path)


def nobody() -> str:
    """The URL of a server that does not run."""
    return f"nats://{HOST}:{free_port()}"


def test_help_names_the_commands_and_the_exit_codes() -> None:
    for flag in ("--help", "-h"):
        result = run(flag)
        assert (result.returncode, result.stderr) == (0, "")
        for word in (*COMMANDS, "exit codes", "NATS_URL"):
            assert word in result.stdout


LOGIN = {"--server", "--context", "--creds", "--tls-ca"}
# Of each command, options that its help must show, and others that mean nothing to it.
USED = {
    "run": (LOGIN | {"--retention", "--http", "--data-dir", "--rejected-stream"}, {"--json"}),
    "verify": (
        LOGIN | {"--timeout", "--digest-subject"},
        {"--data-dir", "--store", "--http", "--mode", "--rejected-subject", "--workers"},
    ),
    "emulate": (
        LOGIN | {"--shots", "--bursts", "--wait", "--event-subject"},
        {"--data-dir", "--store", "--http", "--mode", "--rejected-subject"},
    ),
    "status": ({"--json", "--http"}, LOGIN | {"--data-dir", "--store", "--mode"}),
    "members": (
        LOGIN | {"--group", "--json", "--digests-stream"},
        {"--data-dir", "--store", "--http", "--mode", "--workers"},
    ),
    "step-down": (
        LOGIN | {"--group", "--to", "--timeout"},
        {"--data-dir", "--store", "--http", "--mode", "--json"},
    ),
    "snapshot": (
        LOGIN | {"--group", "--list", "--json", "--data-dir", "--events-stream"},
        {"--store", "--http", "--mode", "--workers"},
    ),
    "show": (
        LOGIN | {"--json", "--due", "--store", "--cassandra", "--from", "--query-subject"},
        {"--http", "--mode"},
    ),
    "users": (
        LOGIN | {"--json", "--due", "--active", "--top", "--sort", "--query-subject", "--group"},
        {"--data-dir", "--store", "--http", "--mode"},
    ),
    "trace": (
        LOGIN | {"--json", "--for", "--off", "--query-subject", "--group"},
        {"--data-dir", "--store", "--http", "--mode"},
    ),
    "history": (
        LOGIN | {"--json", "--since", "--events-stream", "--digests-stream", "--clock-skew"},
        {"--data-dir", "--store", "--http", "--mode"},
    ),
    "forget": (
        LOGIN | {"--json", "--mode", "--events-stream", "--forget-subject", "--no-create-streams"},
        {"--data-dir", "--store", "--http", "--event-subject"},
    ),
    "clear": (
        LOGIN | {"--json", "--mode", "--events-stream", "--event-subject"},
        {"--data-dir", "--store", "--http", "--forget-subject"},
    ),
    "rejected": (
        LOGIN | {"--last", "--follow", "--body", "--json", "--refeed", "--rejected-stream"},
        {"--data-dir", "--store", "--http", "--digest-subject"},
    ),
    "backup": ({"--json", "--store", "--cassandra"}, LOGIN | {"--http", "--mode"}),
    "copy-store": ({"--json", "--from", "--to", "--cassandra"}, LOGIN | {"--http", "--mode"}),
    "schema": ({"--replication-factor", "--cassandra-keyspace"}, LOGIN | {"--http", "--mode"}),
    "check-config": (LOGIN | {"--json", "--retention"}, set[str]()),
    "schedule": (
        LOGIN | {"--default", "--cron", "--within", "--until", "--only-these", "--json"},
        {"--data-dir", "--store", "--http", "--mode", "--workers", "--event-subject"},
    ),
    "scheduler": (
        LOGIN | {"--listen", "--due-subject", "--request-subject", "--events-stream", "--group"},
        {"--data-dir", "--store", "--http", "--mode", "--workers", "--event-subject"},
    ),
    "bridge": (
        LOGIN | {"--rules", "--listen", "--explain", "--sender", "--json", "--event-subject"},
        {"--data-dir", "--store", "--http", "--mode", "--workers"},
    ),
    "deliver": (
        LOGIN
        | {"--routes", "--listen", "--test", "--dry-run", "--retry-dead", "--json"}
        | {"--digests-stream", "--digest-subject", "--query-subject"},
        {"--data-dir", "--store", "--http", "--mode", "--workers"},
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_the_options_that_it_uses_and_no_others(command: str) -> None:
    result = run(command, "--help", environment={"COLUMNS": "80"})
    assert (result.returncode, result.stderr) == (0, "")
    shown = set(re.findall(r"^ +(--[a-z-]+)", result.stdout, re.MULTILINE))
    used, unused = USED[command]
    assert used | {"--config", "--log-level"} <= shown
    assert not unused & shown
    assert "(default: " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout.startswith(f"usage: alarmdigest {command} ")


def test_every_setting_is_in_one_group_of_the_help() -> None:
    known = {item.name for item in fields(Settings)} - SECRETS | {"config", "context"}
    assert sorted(EVERYTHING) == sorted(known)
    assert next(iter(GROUPS)) == "settings"


@pytest.mark.parametrize("command", ["verify", "emulate", "status", "show ada", "backup DIR"])
def test_one_set_of_options_suits_all_commands(command: str) -> None:
    """What a command has no use for, it takes nevertheless; the last of these stops it."""
    shared = ("--data-dir", "x", "--mode", "core", "--http", "off", "--creds", "/no/such")
    result = run(*command.split(), *shared, "--server", nobody(), "--store", "paper")
    assert result.returncode == 2
    assert "--store: 'paper' is none of lmdb, memory" in result.stderr


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"alarmdigest {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-such-option"], "--no-such-option"),
        (["walk"], "walk"),
        (["run", "walk"], "walk"),
        (["verify", "--workers", "3"], "--workers"),
        (["--shots", "3"], "--shots"),
        (["--worker", "3"], "--worker"),  # what is short for one option now may be for two later
        (["--workers"], "--workers"),
        (["--workers", "0"], "--workers"),
        (["--workers", "1025"], "--workers"),
        (["--workers", "many"], "--workers"),
        (["--retention", "7"], "--retention"),
        (["--config", "~nosuchuser/x"], "--config: '~nosuchuser/x'"),
        (["--creds", "~nosuchuser/x"], "--creds: '~nosuchuser/x'"),
        (["show", "ada", "--tls-ca", "~nosuchuser/x"], "--tls-ca: '~nosuchuser/x'"),
        (["--retention", "101y"], "--retention"),
        (["--retention", "36501d"], "--retention"),
        (["--clock-skew", "-1h"], "--clock-skew"),
        (["--connect-timeout", "0s"], "--connect-timeout"),
        (["--split-size", "16383"], "--split-size"),
        (["--split-size", "65MiB"], "--split-size"),
        (["--split-size", "large"], "--split-size"),
        (["--mode", "fast"], "--mode"),
        (["--store", "paper"], "--store"),
        (["--log-level", "loud"], "--log-level"),
        (["--log-format", "xml"], "--log-format"),
        (["--http", "9595"], "--http"),
        (["--http", "127.0.0.1:65536"], "--http"),
        (["--event-subject", "a b"], "--event-subject"),
        (["--digest-subject", "a.*"], "--digest-subject"),
        (["--digest-subject", "a..b"], "--digest-subject"),
        (["--request-subject", ">"], "--request-subject"),
        (["--rejected-subject", ""], "--rejected-subject"),
        (["verify", "--timeout", "soon"], "--timeout"),
        (["emulate", "--shots", "0"], "--shots"),
        (["emulate", "--bursts", "-1"], "--bursts"),
        (["emulate", "--wait", "15"], "--wait"),
    ],
)
def test_what_cannot_be_used_is_named_and_ends_with_2(arguments: list[str], said: str) -> None:
    # A server that nobody listens on: what is not noticed ends with 3.
    environment = {"NATS_URL": nobody(), "ALARMDIGEST_CONNECT_TIMEOUT": "100ms"}
    result = run(*arguments, environment=environment)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "subjects",
    [
        {"event": "a", "request": "a"},
        {"event": "a", "request": "a.b"},
        {"event": "a.b.c", "request": "a"},
        {"digest": "AlarmStatusChanged"},
        {"digest": "AlarmStatusChanged.digests"},
        {"digest": "SendAlarmDigest.digests"},
        {"rejected": "AlarmStatusChanged.rejected"},
        {"rejected": "SendAlarmDigest"},
        {"digest": "a", "rejected": "a"},
    ],
)
def test_subjects_that_overlap_end_with_2(subjects: dict[str, str]) -> None:
    options = [text for name, of in subjects.items() for text in (f"--{name}-subject", of)]
    for command in ("run", "verify", "emulate"):
        result = run(command, "--server", nobody(), *options)
        assert result.returncode == 2
        assert all(f"--{name}-subject" in result.stderr for name in subjects)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("wokers = 3\nretention = 7\nmode = 'core'\nstart = [1]\n")
    environment = {
        "ALARMDIGEST_WORKERS": "2000",
        "ALARMDIGEST_LOG_FORMAT": "xml",
        "ALARMDIGEST_CREDS": "/no/such",
        "NATS_URL": "http://me:s3cret@a",
        "ALARMDIGEST_RETENSION": "7d",
    }
    options = ("--config", str(tmp_path / "a.toml"), "--http", "9595", "--event-subject", "a b")
    for command in ("run", "check-config"):
        result = run(command, *options, environment=environment)
        assert (result.returncode, result.stdout) == (2, "")
        warning, *lines = result.stderr.splitlines()
        assert "ALARMDIGEST_RETENSION" in warning
        said = [
            f"{tmp_path}/a.toml:1: there is no setting 'wokers'; did you mean 'workers'?",
            f"{tmp_path}/a.toml:4: start: write the value as text, in quotes",
            "--http: '9595' is no HOST:PORT and not off",
            "--event-subject: 'a b' is no NATS subject without wildcards",
            "ALARMDIGEST_LOG_FORMAT: 'xml' is none of text, json",
            f"{tmp_path}/a.toml:2: retention: '7' is no duration; "
            "write it like 15ms, 30s, 10m, 1h or 7d",
            "--workers must be at most 1024 (ALARMDIGEST_WORKERS)",
            "cannot use server URL http://a: this is no NATS URL; "
            "it should look like nats://host:4222 or tls://host:4222 (NATS_URL)",
            "cannot read /no/such: No such file or directory",
        ]
        assert sorted(lines) == sorted(f"alarmdigest: {one}" for one in said)


def test_files_of_a_login_matter_to_those_who_log_in_only(tmp_path: Path) -> None:
    environment = {"NATS_CREDS": "/no/such", "NATS_URL": nobody()}
    for command, code in (("verify", 2), ("rejected", 2), ("status", 1), ("show ada", 4)):
        words = [*command.split(), "--data-dir", str(tmp_path), "--http", f"{HOST}:{free_port()}"]
        result = run(*words, environment=environment)
        assert result.returncode == code
        assert ("cannot read /no/such" in result.stderr) == (code == 2)


@pytest.mark.parametrize("command", ["run", "verify", "status", "show ada", "rejected", "backup x"])
def test_a_variable_that_nothing_reads_is_warned_of(command: str, tmp_path: Path) -> None:
    environment = {"NATS_URL": nobody(), "ALARMDIGEST_LOGLEVEL": "debug"}
    options = ("--data-dir", str(tmp_path), "--http", f"{HOST}:{free_port()}")
    result = run(
        *command.split(), *options, environment=environment | {"ALARMDIGEST_CONNECT_TIMEOUT": "1ms"}
    )
    first = result.stderr.splitlines()[0]
    assert re.search(r"Z WARNING MainThread the variable ALARMDIGEST_LOGLEVEL is set, and", first)
    assert first.endswith("there is no such setting; did you mean 'ALARMDIGEST_LOG_LEVEL'?")
    assert result.returncode != 2


def test_subjects_that_only_begin_alike_do_not_overlap() -> None:
    subjects = ("--event-subject", "a.b", "--request-subject", "a.bc", "--digest-subject", "a")
    result = run("--server", nobody(), "--connect-timeout", "1ms", "--http", "off", *subjects)
    assert result.returncode == 3


def test_an_unreachable_server_ends_with_3() -> None:
    url = nobody()
    result = run("--server", url, "--connect-timeout", "1s", "--http", "off")
    assert result.returncode == 3
    last = result.stderr.splitlines()[-1]
    assert "cannot connect to NATS" in last
    assert url in last
    assert not re.search(r"\bready\b", result.stderr)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://:4222", "nats://:4222"),
        ("http://127.0.0.1:4222", "http://127.0.0.1:4222"),
        ("nats://h:port", "nats://h:***"),  # it may be half of a password
    ],
)
def test_a_server_url_that_can_never_work_ends_with_2(url: str, shown: str) -> None:
    for command in (("run", "--http", "off"), ("verify",), ("emulate",)):
        result = run(*command, "--server", url)
        assert result.returncode == 2, result.stderr
        assert shown in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["run", "verify", "emulate"])
@pytest.mark.parametrize("url", ["nats://me:secret@127.0.0.1:1", "secret@127.0.0.1:1"])
def test_credentials_are_refused_as_an_argument_and_not_repeated(command: str, url: str) -> None:
    result = run(command, "--server", url)
    assert result.returncode == 2
    assert "NATS_URL" in result.stderr
    assert "secret" not in result.stderr


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_taken_http_port_that_was_asked_for_ends_with_2(server: NatsServer) -> None:
    with taken_port() as port:
        result = run("--server", server.url, "--http", f"{HOST}:{port}")
    assert result.returncode == 2
    assert f"--http {HOST}:{port}" in result.stderr.splitlines()[-1]


# The real default port may be in use by whatever else runs here, so another one plays its part.
MOVED_DEFAULT = """
import sys
from alarmdigest.cli.main import main
from alarmdigest.settings import HttpAddress, options
options.DEFAULT_HTTP = HttpAddress("127.0.0.1", int(sys.argv.pop(1)), may_move=True)
sys.exit(main())
"""


def test_a_taken_default_http_port_gives_a_free_one_and_says_so(server: NatsServer) -> None:
    with taken_port() as port:
        service = ServiceProcess(server.url, http=None, program=("-c", MOVED_DEFAULT, str(port)))
        with service:
            assert f"port {port} is taken" in service.log
            assert service.http("/readyz") == (200, "ok\n")
            assert f"{HOST}:{port} " not in service.log
            assert service.stop() == 0


def test_an_ipv6_address_is_shown_as_a_url_has_it(server: NatsServer) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with ServiceProcess(server.url, http="[::1]:0") as service:
        port = service.wait_for_log(r"http listening on=http://\[::1\]:(\d+)\n")[1]
        assert service.http("/readyz") == (200, "ok\n")
        result = run("--server", server.url, "--http", f"[::1]:{port}")
        assert result.returncode == 2
        assert f"--http [::1]:{port}: " in result.stderr


def test_without_http_nothing_listens(server: NatsServer) -> None:
    with ServiceProcess(server.url, options=["--http", "off"]) as service:
        assert "http listening" not in service.log
        assert service.stop() == 0


def test_options_are_environment_variables_too_and_flags_win(server: NatsServer) -> None:
    environment = {"NATS_URL": server.url, "ALARMDIGEST_WORKERS": "3"}
    with ServiceProcess(environment=environment) as service:
        assert "workers=3" in service.log
    with ServiceProcess(environment=environment, options=["--workers", "2"]) as service:
        assert "workers=2" in service.log
    result = run(environment=environment | {"ALARMDIGEST_WORKERS": "none"})
    assert result.returncode == 2
    assert "ALARMDIGEST_WORKERS" in result.stderr


def test_ready_is_said_once_when_the_service_consumes_and_not_before(server: NatsServer) -> None:
    """Whoever greps for the word must not be let in too early."""
    with ServiceProcess(server.url, options=["--log-level", "debug"]) as service:
        assert service.http("/readyz") == (200, "ok\n")
        assert service.stop() == 0
        before, said, after = service.log.partition(" ready ")
    assert said
    assert "ready" not in before
    assert not re.search(r"\bready\b", after)


def test_logs_in_json_are_one_object_a_line(server: NatsServer) -> None:
    options = ["--log-format", "json", "--log-level", "debug"]
    with ServiceProcess(server.url, options=options) as service:
        assert service.http("/metrics")[0] == 200
        assert service.stop() == 0
        lines = [json.loads(line) for line in service.log.splitlines()]
    assert all({"ts", "level", "thread", "logger", "msg"} <= line.keys() for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", line["ts"]) for line in lines)
    [ready] = [line for line in lines if "ready" in line["msg"].split()]
    assert (ready["msg"], ready["mode"], ready["workers"]) == ("ready", "core", 12)
    connected = [line["server"] for line in lines if line["msg"] == "connected"]
    assert set(connected) == {server.url}
    assert not any("=" in line["msg"] for line in lines if line["level"] != "debug")
    assert {line["thread"] for line in lines} >= {"MainThread", "listener", "publisher"}


def test_sigterm_drains_and_ends_with_0(server: NatsServer) -> None:
    with ServiceProcess(server.url) as service:
        assert service.stop() == 0
        assert service.log.splitlines()[-1].endswith("everything that arrived was worked off")
