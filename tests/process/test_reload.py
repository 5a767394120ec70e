"""SIGHUP to a running service: what changes at once, what at the next connection, what never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
from support.bus import Bus
from support.credentials import certificates, private
from support.faults import pairs
from support.nats_server import HOST, NatsServer
from support.proxy import Proxy
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.wait import eventually


def hang_up(service: ServiceProcess) -> None:
    service.process.send_signal(signal.SIGHUP)


def test_the_log_level_changes_at_once_and_the_rest_is_told(tmp_path: Path) -> None:
    file = private(tmp_path / "settings.toml", "log-level = 'info'\nretention = '7d'")
    options = ("--config", str(file), "--workers", "2")
    with (
        NatsServer(jetstream=False) as server,
        ServiceProcess(server.url, options=options) as service,
        Bus(server.url) as bus,
    ):
        private(file, "log-level = 'error'\nretention = '1d'\nworkers = 9")
        hang_up(service)
        service.wait_for_log(r"INFO +MainThread SIGHUP: settings read again; changed: log_level\n")
        service.wait_for_log(r"WARNING MainThread SIGHUP: only after a restart: retention\n")
        bus.publish_all([("AlarmStatusChanged", b"nonsense")])
        bus.wait_for_rejected(1)
        assert "rejected a message" not in service.log  # it is a warning
        private(file, "log-level = 'info'\nretention = '7d'\nmoed = 'core'")
        hang_up(service)
        service.wait_for_log(
            r"SIGHUP: the settings stay as they are: .*:3: there is no setting 'moed'"
        )
        private(file, "log-level = 'info'\nretention = '7d'")
        hang_up(service)
        service.wait_for_log(r"; changed: log_level; as at the start again: retention\n")
        assert service.log.count("only after a restart") == 1
        bus.publish_all(pairs(range(3)))
        bus.wait_for_digests(3)
        assert service.stop() == 0


def test_inboxes_stay_where_the_subjects_of_the_start_allow_them(tmp_path: Path) -> None:
    """The new ones fit the new subjects, and those come with a restart only."""
    file = private(tmp_path / "settings.toml", "event-subject = 'a'")
    options = ("--config", str(file))
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url, options=options, mode="stream") as service,
        Bus(server.url) as bus,
    ):
        private(file, "event-subject = 'b'\ninbox-prefix = 'a.inbox'")
        hang_up(service)
        service.wait_for_log(r"only after a restart: event_subject, inbox_prefix\n")
        proxy.cut()
        service.wait_for_log(r"(?s)only after a restart.* connected name=alarmdigest ")
        user, alarm = {"UserID": "u"}, {"AlarmID": "x", "Status": "WARNING"}
        event = {**user, **alarm, "ChangedAt": "2026-01-31T12:00:00Z"}
        bus.publish_all([("a", orjson.dumps(event)), ("SendAlarmDigest", orjson.dumps(user))])
        bus.wait_for_digests(1)
        assert service.metric('alarmdigest_received_total{kind="event"}') == 1
        assert service.stop() == 0


def test_a_new_password_counts_from_the_next_connection_on(tmp_path: Path) -> None:
    """It stood in the settings file itself, so only a SIGHUP can bring it in."""
    file = private(tmp_path / "settings.toml", "user = 'alarm'\npassword = 'first'")

    def login(password: str) -> str:
        return f'authorization {{ user: alarm, password: "{password}" }}'

    options = ("--config", str(file))
    with (
        NatsServer(jetstream=False, extra=login("first")) as first,
        NatsServer(jetstream=False, extra=login("s3cond")) as second,
        Proxy(first.port) as proxy,
        ServiceProcess(proxy.url, options=options) as service,
    ):
        proxy.redirect(second.port)
        proxy.cut()
        service.wait_for_log("Authorization Violation")
        private(file, "user = 'alarm'\npassword = 's3cond'")
        hang_up(service)
        service.wait_for_log(r"INFO .* SIGHUP: .*; from the next connection on: password\n")
        service.wait_for_log(r"(?s)SIGHUP.* connected name=alarmdigest ")
        service.wait_for_log(r"(?s)SIGHUP.* connected name=alarmdigest-publisher ")
        service.wait_for_log(r"(?s)SIGHUP.* connected name=alarmdigest-micro ")
        with Bus(f"nats://alarm:s3cond@{HOST}:{second.port}") as bus:
            eventually(lambda: service.http("/readyz")[0] == 200)
            bus.publish_all(pairs(range(3)))
            bus.wait_for_digests(3)
        assert service.stop() == 0
        assert "s3cond" not in service.log


def test_what_the_files_of_a_login_hold_is_looked_at(tmp_path: Path) -> None:
    made = certificates(tmp_path / "made")
    password = private(tmp_path / "password", "s3cret")
    options = ("--user", "service", "--password-file", str(password), "--tls-ca", str(made.ca))
    login = 'authorization { user: service, password: "s3cret" }'
    with (
        NatsServer(jetstream=False, extra=made.server_config() + "\n" + login) as server,
        ServiceProcess(server.url, options=options) as service,
    ):
        hang_up(service)
        service.wait_for_log(r"INFO +MainThread SIGHUP: settings read again; nothing has changed\n")
        password.touch()  # written again, with the same in it
        hang_up(service)
        eventually(lambda: service.log.count("nothing has changed") == 2, what="no news")
        private(password, "another")
        hang_up(service)
        service.wait_for_log(
            r"INFO .* again; from the next connection on, what these files hold: password_file\n"
        )
        hang_up(service)
        eventually(lambda: service.log.count("nothing has changed") == 3, what="no news again")
        assert " WARNING " not in service.log
        assert "another" not in service.log
        assert service.stop() == 0


def test_a_renewed_certificate_counts_without_a_signal(tmp_path: Path) -> None:
    old, new = certificates(tmp_path / "old"), certificates(tmp_path / "new")
    ca = private(tmp_path / "ca.pem", old.ca.read_text())
    options = ("--tls-ca", str(ca))
    with (
        NatsServer(jetstream=False, extra=old.server_config()) as first,
        NatsServer(jetstream=False, extra=new.server_config()) as second,
        Proxy(first.port) as proxy,
        ServiceProcess(proxy.url, options=options) as service,
    ):
        proxy.redirect(second.port)
        proxy.cut()
        service.wait_for_log("certificate verify failed")
        private(ca, new.ca.read_text())
        service.wait_for_log(r"(?s)verify failed.* connected name=alarmdigest ")
        assert service.stop() == 0


def test_a_service_ends_with_its_terminal(tmp_path: Path) -> None:
    with NatsServer(jetstream=False) as server:
        ours, its = os.openpty()
        options = ("--mode", "core", "--http", "off", "--data-dir", str(tmp_path))
        process = subprocess.Popen(
            [sys.executable, "-m", "alarmdigest", "--server", server.url, *options],
            stderr=its,
            env=CLEAN_ENVIRONMENT,
        )
        os.close(its)
        try:
            said = b""
            while b"ready mode" not in said:
                said += os.read(ours, 65536)
            process.send_signal(signal.SIGHUP)
            while b"SIGHUP: settings read again" not in said:
                said += os.read(ours, 65536)
            os.close(ours)

            # Both the shell and the kernel send one: no second one cuts the drain short.
            def ended() -> bool:
                process.send_signal(signal.SIGHUP)
                return process.poll() is not None

            eventually(ended, timeout=20, interval=0.005, what="the end")
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()
