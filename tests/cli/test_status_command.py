"""`status` says at a terminal what the page says."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import pytest
from support.bus import Bus
from support.command import run_command
from support.faults import pairs
from support.nats_server import HOST, NatsServer, free_port
from support.service import ServiceProcess
from support.wait import eventually


def http_of(service: ServiceProcess) -> str:
    return urlsplit(service.wait_for_log(r"on=(http://\S+)")[1]).netloc


def lines_of(output: str) -> dict[str, str]:
    """The lines of names and values."""
    split = (re.split(" {2,}", line, maxsplit=1) for line in output.splitlines())
    return {parts[0]: parts[1] for parts in split if len(parts) == 2}


def test_it_says_how_the_service_is_in_stream_mode() -> None:
    with NatsServer() as server, ServiceProcess(server.url, mode="stream") as service:
        with Bus(server.url) as bus:
            bus.publish_all(pairs(range(50), padding="secret-"))
            bus.publish("SendAlarmDigest", b"secret")
            bus.wait_for_digests(50)
            bus.wait_for_rejected(1)
        # A proxy that the environment names is not for this.
        result = run_command("status", "--http", http_of(service), http_proxy="http://127.0.0.1:1")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines()[0] == "The service is well."
        said = lines_of(result.stdout)
        assert said["mode"] == "stream"
        assert said["streams"] == "ALARMS, ALARM_DIGESTS, ALARM_REJECTED"
        assert said["behind"] == "0 messages, 0 ms"
        assert said["process"].startswith(f"{service.process.pid} on {socket.gethostname()}, ")
        assert said["data"].startswith(f"{service.data_dir} (lmdb ")
        assert said["data"].endswith(" free)")
        assert re.fullmatch(r"message 101 of 101, stored at 20\d\d-.*Z", said["position"])
        assert said["alarms"] == "50 held, 50 active, 0 due, of 7 users"
        assert re.fullmatch(r"20\d\d-.*Z, all confirmed", said["last digest"])
        assert f"server={server.url}" in said["settings"].split()
        for name in ("listener", "publisher", "service_api"):
            parts = said[name].split()
            assert parts[0] == server.url
            assert parts[-2:] == ["0", "open"]
        assert said["losses"] == "none"
        assert said["rejected"] == "json 1"
        assert said["stream changes"] == "none"
        assert re.fullmatch(r"[\d,]+ written, 0 failed", said["checkpoints"])
        since = result.stdout.splitlines().index("Since the start of the process:")
        counted = [line.partition("  ")[0] for line in result.stdout.splitlines()[since + 1 :]]
        assert counted[:4] == ["checkpoints", "rejected", "losses", "stream changes"]
        alarms = sum(int(said[f"worker-{number}"].split()[1]) for number in range(12))
        assert alarms == 50
        assert "secret" not in result.stdout

        as_json = run_command("status", "--http", http_of(service), "--json")
        found = json.loads(as_json.stdout)
        assert found["state"] == "ready"
        assert found["totals"] == {"events": 50, "requests": 51, "digests": 50}
        assert sum(worker["alarms"] for worker in found["workers"]) == 50
        assert [one["reason"] for one in found["rejected"]["last"]] == ["json"]


def test_it_says_when_the_service_is_not_well_and_what_core_mode_cannot_know() -> None:
    with NatsServer(jetstream=False) as server, ServiceProcess(server.url) as service:
        server.kill()
        eventually(lambda: service.http("/readyz")[1].count("\n") == 2, what="both connections")
        # It compares what was counted with what was told once a second.
        eventually(lambda: json.loads(service.http("/status.json")[1])["happened"], what="a line")
        result = run_command("status", "--http", http_of(service))
        assert result.returncode == 0
        lines = result.stdout.splitlines()
        assert lines[0] == "The service does not do its work right now:"
        assert lines[1].startswith("  - not subscribed to NATS: ")
        said = lines_of(result.stdout)
        assert said["behind"] == "not known in core mode"
        assert said["losses"] == "core_connection 1"
        assert said["position"] == "none"
        assert "none: " in said["publisher"]
        [happened] = [line for line in lines if "the connection to the server was lost" in line]
        assert re.match(r"20\d\d-\d\d-\d\dT.*Z  ", happened)
        assert said["streams"] == "none"


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_where_nobody_answers_it_says_so_and_ends_with_1(option: tuple[str, ...]) -> None:
    place = f"{HOST}:{free_port()}"
    result = run_command("status", "--http", place, *option)
    assert result.returncode == 1
    assert result.stdout == ""
    assert f"no status from http://{place}/status.json: " in result.stderr
    assert "refused" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_no_alarmdigest_is_not_taken_for_one() -> None:
    monitoring = free_port()
    with NatsServer(extra=f"http: {HOST}:{monitoring}"):
        result = run_command("status", "--http", f"{HOST}:{monitoring}")
    assert result.returncode == 1
    assert "no status from" in result.stderr


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """HOST:PORT of somebody who says this to whoever asks."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((HOST, 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            yield f"{HOST}:{other.server_port}"
        finally:
            other.shutdown()
            thread.join(10)


@pytest.mark.parametrize("option", [(), ("--json",)])
@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"state": []}',
        b'{"state": "ready"}',
        b'{"state": "ready", "reasons": 1}',
        b'{"state": "ready", "reasons": [], "behind": [], "checkpoint": null}',
    ],
)
def test_half_a_status_is_none_and_nothing_of_it_is_shown(
    body: bytes, option: tuple[str, ...]
) -> None:
    with answering(body) as place:
        result = run_command("status", "--http", place, *option)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"alarmdigest: no status from http://{place}/status.json: what answers there is no "
        "alarmdigest (or one of another version); is the service running, and is this the "
        "address that it logs as listening?\n"
    )


def test_the_terminal_obeys_nothing_that_a_status_says() -> None:
    with NatsServer(jetstream=False) as server, ServiceProcess(server.url) as service:
        found = json.loads(service.http("/status.json")[1])
    evil = "\x1b[2J\nThe service is well."
    found |= {"state": "ill", "reasons": [evil], "version": evil, "streams": [evil]}
    found |= {"host": evil, "data_dir": evil, "settings": {evil: evil}}
    found["connections"][0] |= {"server": evil, "server_name": evil, "last_error": evil}
    found["happened"] = [{"at": evil, "what": evil}]
    found["losses"] = {evil: 1}
    found["rejected"]["last"] = [{"at": evil, "reason": evil, "bytes": 7}]
    found["workers"][0]["name"] = evil
    with answering(json.dumps(found).encode()) as place:
        result = run_command("status", "--http", place)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count(r"\x1b[2J\nThe service is well.") == 15
    assert result.stdout.replace("\n", "").isprintable()
    assert "The service is well." not in result.stdout.splitlines()


def test_without_an_address_there_is_nobody_to_ask() -> None:
    result = run_command("status", "--http", "off")
    assert result.returncode == 2
    assert "--http" in result.stderr
