"""deploy/nats-permissions*.conf: with them the service does all of its work, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bus import Bus
from support.command import run_command
from support.faults import pairs
from support.nats_server import HOST, NatsServer
from support.paths import ROOT
from support.service import ServiceProcess
from support.streams import ALARMS, js, store_all
from support.talk import talk
from support.wait import eventually

from alarmdigest.runtime import exit_codes

DEPLOY = ROOT / "deploy"
LOGIN = {"ALARMDIGEST_USER": "service", "ALARMDIGEST_PASSWORD": "p"}


def config(permissions: Path) -> str:
    # A server resolves what it includes against its own folder.
    include = os.path.relpath(permissions, tempfile.gettempdir())
    return f"""
authorization {{
  users: [
    {{ user: service, password: p, include "../{include}" }}
    {{ user: owner, password: p }}
  ]
}}
"""


def url_of(server: NatsServer, user: str) -> str:
    return f"nats://{user}:p@{HOST}:{server.port}"


@pytest.fixture
def stream_server() -> Iterator[NatsServer]:
    with NatsServer(extra=config(DEPLOY / "nats-permissions.conf")) as server:
        yield server


@pytest.fixture
def core_server() -> Iterator[NatsServer]:
    with NatsServer(extra=config(DEPLOY / "nats-permissions-core.conf")) as server:
        yield server


def assert_nothing_was_denied(server: NatsServer, *logs: str) -> None:
    for log in (server.log, *logs):
        assert "iolation" not in log
        assert "no JetStream" not in log


def test_stream_mode_lacks_nothing_over_a_crash_a_purge_and_a_new_stream(
    stream_server: NatsServer,
) -> None:
    service = ServiceProcess(
        stream_server.url,
        mode="stream",
        environment=LOGIN,
        options=("--workers", "2", "--checkpoint-interval", "100ms"),
    )
    with service, Bus(url_of(stream_server, "owner")) as bus:
        store_all(bus, [*pairs(range(5)), ("AlarmStatusChanged", b"nonsense")])
        bus.wait_for_digests(5)
        bus.wait_for_rejected(1)
        logs = [service.log]
        assert service.stop() == 0  # with a checkpoint, so that the next start has a position
        service.start()
        store_all(bus, pairs(range(5, 10)))
        bus.wait_for_digests(10)
        logs.append(service.log)
        service.kill()  # so that the next start looks for digests that are there already
        store_all(bus, [*pairs(range(10, 15)), ("AlarmStatusChanged", b"more nonsense")])
        service.start()
        bus.wait_for_digests(15)
        bus.wait_for_rejected(2)
        bus.run(js(bus).purge_stream(ALARMS))
        bus.run(js(bus).delete_stream(ALARMS))
        service.wait_for_log("was recreated")
        store_all(bus, pairs(range(15, 20)))
        bus.wait_for_digests(20)
        assert service.stop() == 0
        assert_nothing_was_denied(stream_server, *logs, service.log)


def test_snapshots_lack_nothing(stream_server: NatsServer) -> None:
    service = ServiceProcess(
        stream_server.url,
        mode="stream",
        environment=LOGIN,
        options=("--workers", "2", "--snapshots", "--snapshot-interval", "1s"),
    )
    with service, Bus(url_of(stream_server, "owner")) as bus:
        store_all(bus, pairs(range(5)))
        bus.wait_for_digests(5)
        # The third one removes the first.
        eventually(lambda: service.log.count("made a snapshot") >= 3, what="three snapshots")
        logs = [service.log]
        service.kill()
        shutil.rmtree(service.data_dir)
        service.start()
        service.wait_for_log("restored the state from a snapshot")
        assert service.stop() == 0
        assert_nothing_was_denied(stream_server, *logs, service.log)


def test_a_start_that_may_not_look_for_snapshots_does_not_begin_without(tmp_path: Path) -> None:
    allowed = (DEPLOY / "nats-permissions.conf").read_text("utf-8")
    there = tmp_path / "nats-permissions.conf"
    lines = [line for line in allowed.splitlines() if "SNAPSHOTS" not in line]
    there.write_text("\n".join(lines), "utf-8")
    with NatsServer(extra=config(there)) as server:
        options = ("--connect-timeout", "2s", "--snapshots")
        service = ServiceProcess(server.url, mode="stream", environment=LOGIN, options=options)
        service.start(ready=False)
        assert service.wait() == exit_codes.NATS_NOT_REACHABLE
        assert "STREAM.MSG.GET.OBJ_ALARMDIGEST_SNAPSHOTS" in service.log


def test_core_mode_lacks_nothing(core_server: NatsServer) -> None:
    service = ServiceProcess(core_server.url, mode="core", environment=LOGIN)
    with service, Bus(url_of(core_server, "owner")) as bus:
        bus.publish_all([*pairs(range(5)), ("SendAlarmDigest.x", b"nonsense")])
        bus.wait_for_digests(5)
        bus.wait_for_rejected(1)
        assert service.stop() == 0
        assert_nothing_was_denied(core_server, service.log)


def test_the_tools_need_a_user_of_their_own() -> None:
    """What operating.md says that they need; the service's own user is not allowed it."""
    inputs = "AlarmStatusChanged", "AlarmStatusChanged.>", "SendAlarmDigest", "SendAlarmDigest.>"
    publish = ", ".join(f'"{subject}"' for subject in inputs)
    may = f'publish: {{ allow: [{publish}] }}, subscribe: {{ allow: ["AlarmDigest"] }}'
    tester = f"{{ user: tester, password: p, permissions: {{ {may} }} }}"
    extra = config(DEPLOY / "nats-permissions.conf").replace("users: [", f"users: [ {tester}")
    with (
        NatsServer(extra=extra) as server,
        ServiceProcess(server.url, mode="stream", environment=LOGIN),
    ):
        for tool in (("verify",), ("emulate", "--shots", "1", "--bursts", "2")):
            passed = run_command(*tool, NATS_URL=url_of(server, "tester"))
            assert passed.returncode == 0, passed.stdout + passed.stderr
            refused = run_command(*tool, NATS_URL=url_of(server, "service"))
            assert refused.returncode == exit_codes.NATS_NOT_REACHABLE
            # The server is there: nobody shall look for it.
            assert refused.stderr == (
                f"alarmdigest: {server.url}: the server said: "
                'Permissions Violation for Subscription to "AlarmDigest"\n'
            )
        shown = run_command("rejected", NATS_URL=url_of(server, "service"))
        wanted = "stream ALARM_REJECTED holds no rejected messages\n"
        assert (shown.returncode, shown.stderr) == (0, wanted)


def test_inboxes_are_where_the_server_allows_them(tmp_path: Path) -> None:
    allowed = (DEPLOY / "nats-permissions.conf").read_text("utf-8")
    there = tmp_path / "nats-permissions.conf"
    there.write_text(allowed.replace("_INBOX.alarmdigest.", "_MINE."), "utf-8")

    def service(server: NatsServer, *options: str) -> ServiceProcess:
        options = ("--connect-timeout", "2s", *options)
        return ServiceProcess(server.url, mode="stream", environment=LOGIN, options=options)

    with NatsServer(extra=config(there)) as server:
        with service(server, "--inbox-prefix", "_MINE") as fits:
            with Bus(url_of(server, "owner")) as bus:
                store_all(bus, pairs(range(5)))
                bus.wait_for_digests(5)
            assert fits.stop() == 0
            assert_nothing_was_denied(server, fits.log)
        other = service(server).start(ready=False)
        assert other.wait() == exit_codes.NATS_NOT_REACHABLE
        assert 'Permissions Violation for Subscription to "_INBOX.alarmdigest.' in other.log


def test_the_permissions_of_the_first_versions_will_do(tmp_path: Path) -> None:
    """They do not let it read a single message of an output stream."""
    text = (DEPLOY / "nats-permissions.conf").read_text()
    lines = [line for line in text.splitlines() if "MSG.GET.ALARM_" not in line]
    assert len(lines) == len(text.splitlines()) - 2
    (tmp_path / "first.conf").write_text("\n".join(lines))
    with (
        NatsServer(extra=config(tmp_path / "first.conf")) as server,
        ServiceProcess(
            server.url,
            mode="stream",
            environment=LOGIN,
            options=("--workers", "2", "--checkpoint-interval", "100ms"),
        ) as service,
        Bus(url_of(server, "owner")) as bus,
    ):
        store_all(bus, pairs(range(5)))
        bus.wait_for_digests(5)
        assert service.stop() == 0
        service.start()
        store_all(bus, pairs(range(5, 10)))
        bus.wait_for_digests(10)


FORBIDDEN = [
    b"PUB AlarmStatusChanged 0\r\n\r\n",
    b"PUB SendAlarmDigest 0\r\n\r\n",
    b"PUB elsewhere 0\r\n\r\n",
    b"PUB $JS.API.STREAM.DELETE.ALARMS 0\r\n\r\n",
    b"PUB $JS.API.STREAM.PURGE.ALARMS 0\r\n\r\n",
    b"PUB $JS.API.STREAM.UPDATE.ALARMS 0\r\n\r\n",
    b"PUB $JS.API.STREAM.MSG.DELETE.ALARMS 0\r\n\r\n",
    b"PUB $JS.API.STREAM.CREATE.OTHER 0\r\n\r\n",
    b"PUB $JS.API.STREAM.MSG.GET.OTHER 0\r\n\r\n",
    b"PUB $JS.API.CONSUMER.CREATE.OTHER.x 0\r\n\r\n",
    b"SUB > 1\r\n",
    b"SUB elsewhere 1\r\n",
    b"SUB AlarmDigest 1\r\n",
    b"SUB _INBOX.> 1\r\n",
    b"SUB _INBOX.of.another 1\r\n",
    b"SUB $SRV.> 1\r\n",
    b"SUB $SRV.INFO.other 1\r\n",
]


def test_nothing_else_is_allowed(stream_server: NatsServer, core_server: NatsServer) -> None:
    for server in (stream_server, core_server):
        with talk(url_of(server, "service")) as peer:
            for number, line in enumerate(FORBIDDEN, start=1):
                peer.connection.send(line)
                peer.flush()
                assert len(peer.refusals) == number, f"the server took {line!r}"
                assert peer.refusals[-1].startswith("Permissions Violation")


@pytest.mark.parametrize("mode", ["stream", "core"])
def test_questions_are_answered_also_in_several_messages(mode: str) -> None:
    name = "nats-permissions.conf" if mode == "stream" else "nats-permissions-core.conf"
    extra = f"max_payload: 65536\n{config(DEPLOY / name)}"
    with (
        NatsServer(extra=extra) as server,
        Bus(url_of(server, "owner")) as bus,
        ServiceProcess(server.url, mode=mode, environment=LOGIN) as service,
    ):
        body = '{"UserID":"ada","AlarmID":"%s","Status":"WARNING","ChangedAt":"%s"}'
        when = "2026-01-02T03:04:05Z"
        alarms = [body % (f"{n:05}" * 100, when) for n in range(500)]
        bus.publish_all(("AlarmStatusChanged", one.encode()) for one in alarms)
        eventually(lambda: service.metric("alarmdigest_alarms") == 500, what="all of them")
        url = {"NATS_URL": url_of(server, "owner")}
        shown = run_command("show", "ada", "--json", "--from", "service", **url)
        assert shown.returncode == 0, shown.stderr
        assert len({one["AlarmID"] for one in json.loads(shown.stdout)["alarms"]}) == 500
        assert run_command("users", **url).returncode == 0
        assert run_command("trace", "ada", "--for", "1s", **url).returncode == 0
        assert_nothing_was_denied(server, service.log)
