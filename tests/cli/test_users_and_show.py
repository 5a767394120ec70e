"""`users` and `show`, asked of a running service."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from support.bus import Bus
from support.command import run_command
from support.faults import ChangingServer, users
from support.inputs import event, request
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.runtime import exit_codes

OPTIONS = ["--checkpoint-interval", "100ms"]


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def ask(server: NatsServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, "--server", server.url)


def listed(server: NatsServer, *arguments: str) -> dict[str, Any]:
    done = ask(server, "users", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wait_until_merged(service: ServiceProcess, events: int) -> None:
    eventually(
        lambda: service.metric("alarmdigest_book_events_total") >= events,
        what=f"{events} events to be merged",
    )


@pytest.mark.parametrize("mode", ["stream", "core"])
def test_who_waits_and_for_what(server: NatsServer, mode: str) -> None:
    with ServiceProcess(server.url, mode=mode, options=OPTIONS) as service, Bus(server.url) as bus:
        bus.publish_all([event("told", "a", "CRITICAL"), request("told")])
        bus.wait_for_digests(1)
        bus.publish_all([event("quiet", "a", "CLEARED"), event("first", "a", "WARNING")])
        bus.publish_all([event("many", f"{n}", "WARNING") for n in range(50)])
        bus.publish_all([event("many", "c", "CRITICAL"), event("many", "x", "CLEARED")])
        wait_until_merged(service, 55)
        found = listed(server)
        assert [one["UserID"] for one in found["top"]] == ["first", "many", "quiet", "told"]
        assert {name: found[name] for name in ("users", "alarms", "active", "due", "found")} == {
            "users": 4,
            "alarms": 55,
            "active": 53,
            "due": 52,
            "found": 4,
        }
        many = found["top"][1]
        assert many.pop("waits_since") > found["top"][0]["waits_since"]
        assert many == {"UserID": "many", "due": 51, "active": 51, "critical": 1, "alarms": 52}
        assert found["top"][2]["waits_since"] is None
        due = listed(server, "--due", "--sort", "due", "--top", "1")
        assert [one["UserID"] for one in due["top"]] == ["many"]
        assert due["found"] == 2
        active = listed(server, "--active", "--sort", "active")
        assert [one["UserID"] for one in active["top"]] == ["many", "first", "told"]
        shown = ask(server, "users", "--due")
        lines = shown.stdout.splitlines()
        assert lines[0] == "as the running service knows it now"
        assert lines[1] == "users: 4, alarms: 55, active: 53, due: 52; shown: 2 of 2"
        assert lines[3].split()[:5] == ["first", "1", "1", "0", "1"]


def test_show_is_what_the_store_has_too(server: NatsServer) -> None:
    odd = 'ü "quoted" \\ \u2028'
    with ServiceProcess(server.url, mode="stream", options=OPTIONS) as service:
        with Bus(server.url) as bus:
            bus.publish_all([event(odd, f"{n:04}" * 20, "WARNING", n % 60) for n in range(300)])
            bus.publish_all([request(odd)])
            bus.wait_for_digests(1)
            bus.publish_all([event(odd, "0" * 80, "CRITICAL", 59), event(odd, "x", "CLEARED")])
            wait_until_merged(service, 302)
        store = ("--data-dir", str(service.data_dir))
        eventually(
            lambda: "CRITICAL" in run_command("show", odd, "--due", *store).stdout,
            what="a checkpoint",
        )
        answered = json.loads(ask(server, "show", odd, "--json").stdout)
        stored = json.loads(run_command("show", odd, "--json", *store).stdout)
        assert (answered["source"], stored["source"]) == ("service", "store")
        assert answered["alarms"] == stored["alarms"]
        assert len(answered["alarms"]) == 301
        due = json.loads(ask(server, "show", odd, "--due", "--json").stdout)["alarms"]
        assert [one["AlarmID"] for one in due] == ["0" * 80]
        shown = ask(server, "show", odd)
        assert shown.stdout.splitlines()[0].endswith(", as the running service knows it now")
        nobody = ask(server, "show", "nobody")
        assert nobody.returncode == exit_codes.INTERNAL_ERROR
        assert "no alarms of user 'nobody', says the running service" in nobody.stderr
        assert service.stop() == 0
        # The service is down: the store is read, and that is said.
        fallen_back = ask(server, "show", odd, *store)
        assert fallen_back.returncode == 0
        assert "reading the store: " in fallen_back.stderr
        assert "no service answers AlarmDigestQuery.show" in fallen_back.stderr
        assert "as of checkpoint " in fallen_back.stdout
        strict = ask(server, "show", odd, *store, "--from", "service")
        assert strict.returncode == exit_codes.NATS_NOT_REACHABLE
        # Who names a server and no store does not get another service's.
        named = ask(server, "show", odd)
        assert named.returncode == exit_codes.NATS_NOT_REACHABLE
        alone = ask(server, "users")
        assert alone.returncode == exit_codes.NATS_NOT_REACHABLE
        assert "no service answers AlarmDigestQuery.users: is one running" in alone.stderr


@pytest.mark.slow
def test_an_answer_in_several_messages() -> None:
    """What does not fit into one message of the server."""
    with (
        NatsServer(extra="max_payload: 65536") as server,
        ServiceProcess(server.url, mode="core", options=OPTIONS) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all([event("ada", f"{n:05}" * 100, "WARNING") for n in range(1000)])
        bus.publish_all([event(f"{n:04}" * 200, "a", "WARNING") for n in range(500)])
        wait_until_merged(service, 1500)
        found = json.loads(ask(server, "show", "ada", "--json").stdout)
        assert len({one["AlarmID"] for one in found["alarms"]}) == 1000
        assert len(listed(server, "--top", "1000")["top"]) == 501


def test_other_services_and_bad_questions(server: NatsServer) -> None:
    with (
        ServiceProcess(server.url, mode="core", options=OPTIONS) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all([event("ada", "a", "WARNING")])
        wait_until_merged(service, 1)
        other = ask(server, "users", "--digest-subject", "TheirDigest")
        assert other.returncode == exit_codes.NATS_NOT_REACHABLE
        for body in (b"", b"[]", b"{", b"\xff", b'{"UserID":7}', b'{"UserID":"\\ud800"}'):
            assert "error" in orjson.loads(bus.ask("AlarmDigestQuery.show", body)), body
        # A body that is far too large costs no connection.
        assert "error" in orjson.loads(bus.ask("AlarmDigestQuery.show", b"x" * 500_000))
        assert "lost its connection" not in service.log
        for wrong in ({"top": 0}, {"top": True}, {"top": 10**30}, {"sort": "name"}, {"due": 1}):
            answer = bus.ask("AlarmDigestQuery.users", json.dumps(wrong).encode())
            assert "error" in orjson.loads(answer), wrong
        assert ask(server, "users", "--top", "0").returncode == exit_codes.USAGE
        # An answer goes to an inbox only: else a question could make us publish a request.
        body = orjson.dumps({"UserID": "ada"})
        bus.run(bus.client.publish("AlarmDigestQuery.show", body, reply="SendAlarmDigest"))
        assert len(listed(server)["top"]) == 1
        bus.flush()
        assert service.metric('alarmdigest_received_total{kind="request"}') == 0


def test_who_may_ask_is_a_matter_of_permissions() -> None:
    may = 'publish: { allow: ["AlarmDigestQuery.users"] }, subscribe: { allow: ["_INBOX.>"] }'
    with ChangingServer(extra=users(may)) as guarded:
        service = ServiceProcess(
            mode="core", options=OPTIONS, environment={"NATS_URL": guarded.url_of("bus")}
        )
        with service, Bus(guarded.url_of("bus")) as bus:
            bus.publish_all([event("ada", "a", "WARNING")])
            wait_until_merged(service, 1)
            assert run_command("users", NATS_URL=guarded.url_of("service")).returncode == 0
            refused = run_command(
                "show", "ada", "--from", "service", NATS_URL=guarded.url_of("service")
            )
            assert refused.returncode == exit_codes.NATS_NOT_REACHABLE
            assert "Permissions Violation" in refused.stderr
