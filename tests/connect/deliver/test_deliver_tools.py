"""What an operator does: tries, looks, sends again, changes the routes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.bridge import Streams
from support.deliver import DeliverProcess, Digests, routes
from support.faults import ChangingServer
from support.nats_server import NatsServer
from support.paths import ROOT
from support.receivers import MailServer, WebServer
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.wait import eventually

pytestmark = pytest.mark.deliver


def run(
    file: Path, *options: str, server: str = "nats://127.0.0.1:1"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alarmdigest", "deliver", "--routes", str(file)]
    return subprocess.run(
        [*command, "--server", server, *options],
        capture_output=True,
        text=True,
        env=CLEAN_ENVIRONMENT,
        timeout=60,
    )


def written(folder: Path, text: str) -> Path:
    file = folder / "deliver.toml"
    file.write_text(text, "utf-8")
    return file


def of_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_test_message_says_for_each_target_what_became_of_it(
    tmp_path: Path, mails: MailServer, web: WebServer
) -> None:
    """It needs no NATS."""
    web.answer = lambda _path: 401
    targets = {"mail": mails.url("{UserID}@example.com"), "web": web.url()}
    file = written(tmp_path, routes(targets))
    done = run(file, "--test", "ada", "--json")
    assert done.returncode == 1, done.stderr
    first, second = of_lines(done.stdout)
    assert (first["target"], first["sent"]) == ("mail", True)
    assert (second["target"], second["sent"]) == ("web", False)
    assert "401" in second["problem"]
    [mail] = mails.mails
    assert mail["Subject"].startswith("[test]")
    web.answer = lambda _path: 200
    assert run(file, "--test", "ada").returncode == 0
    nobody = written(tmp_path, routes(targets).replace('"*"', '"bob"'))
    assert run(nobody, "--test", "ada").returncode == 1


def test_a_dry_run_shows_whom_it_would_be_sent_to_and_changes_nothing(
    tmp_path: Path, server: NatsServer, streams: Streams, digests: Digests, web: WebServer
) -> None:
    file = written(tmp_path, routes({"web": web.url()}).replace('"*"', '"ada"'))
    digests.publish("ada", "disk-7")
    digests.publish("bob", "disk-7")
    done = run(file, "--dry-run", "--json", server=server.url)
    assert done.returncode == 0, done.stderr
    first, second = of_lines(done.stdout)
    assert (first["UserID"], first["target"]) == ("ada", "web")
    assert "disk-7" in first["body"]
    assert (second["UserID"], second["target"]) == ("bob", "")
    assert web.tried == []
    assert streams.info("ALARM_DIGESTS").consumers == 0
    assert streams.js.stream_info("ALARM_UNDELIVERED") is None


def test_dead_letters_are_sent_again_and_removed_once_they_are(
    tmp_path: Path, server: NatsServer, digests: Digests, web: WebServer
) -> None:
    web.answer = lambda path: 410 if "bob" in path else 503
    text = routes({"web": web.url()}).replace("[sending]", "[sending]\nattempts = 2")
    with DeliverProcess(server.url, routes=text):
        digests.publish("ada", "disk-7")
        digests.publish("bob", "disk-8")
        eventually(lambda: len(digests.dead_letters()) == 2, what="dead letters", timeout=20)
    file = written(tmp_path, text)
    web.answer = lambda path: 410 if "bob" in path else 200
    done = run(file, "--retry-dead", "--json", server=server.url)
    assert done.returncode == 1, done.stderr
    by_user = {one["UserID"]: one for one in of_lines(done.stdout)}
    assert by_user["ada"]["sent"]
    assert not by_user["bob"]["sent"]
    assert "410" in by_user["bob"]["problem"]
    assert len(web.of("ada")) == 1
    [left] = digests.dead_letters()
    assert (left["UserID"], left["attempts"]) == ("bob", 3)
    web.answer = lambda _path: 200
    assert run(file, "--retry-dead", server=server.url).returncode == 0
    assert digests.dead_letters() == []
    assert "disk-8" in web.of("bob")[0]


def test_a_corrected_address_counts_for_what_waits_too(
    server: NatsServer, digests: Digests, web: WebServer
) -> None:
    web.answer = lambda path: 404 if "wrong" in path else 200
    with DeliverProcess(server.url, routes=routes({"web": web.url("wrong")})) as deliver:
        for number in range(3):
            digests.publish("ada", f"alarm-{number}")
        eventually(lambda: web.tried, what="an attempt", timeout=20)
        deliver.write_routes('[targets.web]\nurl = "nonsense://"\n')
        deliver.process.send_signal(signal.SIGHUP)
        deliver.wait_for_log("not reloaded: .*Apprise cannot read it")
        deliver.write_routes(routes({"web": web.url("right")}))
        deliver.process.send_signal(signal.SIGHUP)
        eventually(lambda: digests.unacknowledged() == 0, what="all acknowledged", timeout=30)
    assert [f"alarm-{number}" in text for number, text in enumerate(web.of("right"))] == [True] * 3


def test_no_secret_of_a_url_is_told(
    tmp_path: Path, server: NatsServer, digests: Digests, web: WebServer
) -> None:
    web.answer = lambda _path: 403
    secret = f"json://someone:s3cr3t-password@127.0.0.1:{web.port}/t0ken-in-the-path"
    text = routes({"web": secret}).replace("[sending]", "[sending]\nattempts = 2")
    options = ("--log-level", "debug")
    with DeliverProcess(server.url, routes=text, options=options) as deliver:
        digests.publish("ada", "disk-7")
        [dead] = eventually(digests.dead_letters, what="the dead letter", timeout=20)
        told = deliver.log + json.dumps(dead) + deliver.http("/metrics")[1]
        assert deliver.stop() == 0
    tried = run(written(tmp_path, text), "--test", "ada", "--log-level", "debug")
    told += tried.stdout + tried.stderr
    broken = text.replace("json://", "jsonx://")
    refused = run(written(tmp_path, broken), "--test", "ada")
    assert refused.returncode == 2
    told += refused.stderr
    assert "s3cr3t" not in told
    assert "t0ken" not in told


def test_a_template_that_fails_costs_no_message(
    tmp_path: Path, server: NatsServer, digests: Digests, web: WebServer
) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    # It does well with the samples.
    (folder / "message.txt").write_text(
        "{% for one in new.alarms %}{% if 'poison' in one.alarm_id %}{{ 1 // 0 }}{% endif %}"
        "{% endfor %}own"
    )
    text = routes({"web": web.url()}, f'[messages]\ntemplates = "{folder}"\n')
    with DeliverProcess(server.url, routes=text) as deliver:
        digests.publish("ada", "disk-7")
        digests.publish("ada", "poison")
        eventually(lambda: len(web.of("ada")) == 2, what="both", timeout=20)
        assert deliver.metric("alarmdigest_deliver_render_failures_total") == 1
    own, built_in = web.of("ada")
    assert "own" in own
    assert "poison" in built_in


def test_with_the_service_a_message_tells_what_is_still_active_and_what_was_cleared(
    server: NatsServer, web: WebServer
) -> None:
    with (
        ServiceProcess(server.url, mode="stream"),
        DeliverProcess(server.url, routes=routes({"web": web.url()})) as deliver,
    ):
        streams = Streams(server, create=False)

        def alarm(name: str, status: str, second: int) -> None:
            event = {
                "AlarmID": name,
                "UserID": "ada",
                "Status": status,
                "ChangedAt": f"2026-11-28T10:00:{second:02}Z",
            }
            streams.publish("AlarmStatusChanged", json.dumps(event).encode())

        def ask(count: int) -> str:
            streams.publish("SendAlarmDigest", b'{"UserID": "ada"}')
            eventually(lambda: len(web.of("ada")) == count, what="the message", timeout=20)
            return web.of("ada")[-1]

        alarm("stays", "CRITICAL", 1)
        alarm("goes", "CRITICAL", 2)
        ask(1)
        alarm("goes", "CLEARED", 3)
        alarm("new-one", "WARNING", 4)
        second = ask(2)
        assert all(name in second for name in ("stays", "goes", "new-one"))
        alarm("another", "WARNING", 5)
        third = ask(3)
        assert "stays" in third
        assert "goes" not in third  # it was told once
        assert deliver.metric("alarmdigest_deliver_state_unknown_total") == 0
        streams.close()


PERMISSIONS = (ROOT / "deploy/nats-permissions-deliver.conf").read_text("utf-8")


def test_the_permissions_that_are_shipped_are_all_that_it_needs(web: WebServer) -> None:
    inside = PERMISSIONS[PERMISSIONS.index("permissions: {") :]
    users = (
        'jetstream { store_dir: "." }\nauthorization { users: [\n'
        f'{{user: deliver, password: "s3cret", {inside}}}\n'
        '{user: bus, password: "s3cret"}\n] }'
    )
    with ChangingServer(jetstream=False, extra=users) as server:
        streams = Streams(server, url=server.url_of("bus"))
        digests = Digests(streams)
        text = routes({"web": web.url()}).replace("[sending]", "[sending]\nattempts = 1")
        environment = {"NATS_URL": server.url_of("deliver")}
        with DeliverProcess(routes=text, environment=environment) as deliver:
            digests.publish("ada", "disk-7")
            eventually(lambda: web.of("ada"), what="the message", timeout=20)
            web.answer = lambda _path: 503
            digests.publish("ada", "disk-8")
            eventually(digests.dead_letters, what="the dead letter", timeout=20)
            eventually(lambda: digests.unacknowledged() == 0, what="all acknowledged")
            assert deliver.stop() == 0
            assert "ermission" not in deliver.log
        assert "ermissions Violation" not in server.log.replace("AlarmDigestQuery", "")
        streams.close()


def test_what_is_missing_on_the_server_is_said_and_waited_for(
    server: NatsServer, web: WebServer
) -> None:
    deliver = DeliverProcess(server.url, routes=routes({"web": web.url()}))
    try:
        deliver.start(ready=False)
        deliver.wait_for_log("there is no stream ALARM_DIGESTS: start the service")
        assert deliver.http("/readyz")[0] == 503
        streams = Streams(server)
        deliver.wait_for_log(r"\bready\b")
        Digests(streams).publish("ada", "disk-7")
        eventually(lambda: web.of("ada"), what="the message", timeout=20)
        streams.close()
    finally:
        deliver.end()
