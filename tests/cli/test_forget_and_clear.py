"""`forget` and `clear`: a user's memory ends, an alarm is cleared, by input like any other."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.bus import Bus
from support.command import run_command
from support.faults import ChangingServer, users
from support.jetstream import asking, info_of
from support.nats_server import NatsServer
from support.scheduler import schedule
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest._ext import timestamps
from alarmdigest.runtime import exit_codes
from alarmdigest.wire.messages import MAX_ID_BYTES

OLD_SUBJECTS = (
    *("AlarmStatusChanged", "AlarmStatusChanged.>"),
    *("SendAlarmDigest", "SendAlarmDigest.>"),
)
OPTIONS = ["--checkpoint-interval", "100ms"]


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def event(user: str, alarm: str, status: str = "WARNING") -> tuple[str, bytes]:
    body = {"UserID": user, "AlarmID": alarm, "Status": status, "ChangedAt": "2026-01-02T03:04:05Z"}
    return "AlarmStatusChanged", orjson.dumps(body)


def request(user: str) -> tuple[str, bytes]:
    return "SendAlarmDigest", orjson.dumps({"UserID": user})


def alarms_in(digest: Any) -> list[str]:
    return [alarm["AlarmID"] for alarm in digest.json["ActiveAlarms"]]


def run(server: NatsServer, *arguments: str) -> str:
    done = run_command(*arguments, "--server", server.url)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", ["stream", "core"])
def test_what_is_forgotten_and_comes_again_is_new(server: NatsServer, mode: str) -> None:
    with ServiceProcess(server.url, mode=mode, options=OPTIONS) as service, Bus(server.url) as bus:
        bus.publish_all([event("ada", "told"), event("bob", "his"), request("ada")])
        [first] = bus.wait_for_digests(1)
        assert alarms_in(first) == ["told"]
        bus.publish_all([event("ada", "waits")])
        bus.flush()
        said = run(server, "forget", "ada", "--mode", mode)
        where = "message 5 of ALARMS" if mode == "stream" else "a plain message"
        assert said.startswith(f"user ada is to be forgotten: {where}")
        # What was due is not told any more; what was told is told once more when it comes again.
        bus.publish_all([request("ada"), event("ada", "told"), request("ada"), request("bob")])
        digests = bus.wait_for_digests(3)[1:]
        assert sorted((one.json["UserID"], *alarms_in(one)) for one in digests) == [
            ("ada", "told"),
            ("bob", "his"),
        ]
        assert service.metric("alarmdigest_book_forgotten_with_user_total") == 2
        assert service.metric('alarmdigest_received_total{kind="forget"}') == 1


def test_the_store_forgets_too(server: NatsServer, tmp_path: Path) -> None:
    with ServiceProcess(server.url, mode="stream", options=OPTIONS) as service:

        def shown(user: str) -> int:
            return run_command("show", user, "--data-dir", str(service.data_dir)).returncode

        with Bus(server.url) as bus:
            # More than one row of them.
            bus.publish_all([event("ada", f"{number:0200}") for number in range(100)])
            bus.publish_all([event("bob", "his")])
        eventually(lambda: shown("bob") == 0, what="a checkpoint")
        assert shown("ada") == 0
        run(server, "forget", "ada")
        eventually(lambda: shown("ada") == 1, what="a checkpoint without her")
        assert shown("bob") == 0
        service.kill()
        service.start()
        assert shown("ada") == 1
        assert service.metric("alarmdigest_users") == 1
        # A copy has nothing of her, not even where nobody would look for it.
        copied = run_command("backup", str(tmp_path), "--data-dir", str(service.data_dir))
        assert copied.returncode == 0, copied.stderr
        [data] = (tmp_path / "state").glob("data.mdb")
        assert b"his" in data.read_bytes()
        assert b"0" * 190 not in data.read_bytes()


def test_a_kill_before_the_checkpoint_brings_nobody_back(server: NatsServer) -> None:
    options = ["--checkpoint-interval", "1h"]
    service = ServiceProcess(server.url, mode="stream", options=options)
    with service, Bus(server.url) as bus:
        bus.publish_all([event("ada", "a"), request("ada"), event("ada", "b")])
        bus.wait_for_digests(1)
        run(server, "forget", "ada")
        bus.publish_all([event("bob", "c"), request("bob")])
        bus.wait_for_digests(2)  # the message before it was read
        service.kill()
        service.start()
        # What was due is not told any more; what was told is, once it comes again.
        bus.publish_all([request("ada"), event("ada", "a"), request("ada")])
        assert alarms_in(bus.wait_for_digests(3)[2]) == ["a"]


def test_a_stream_of_an_earlier_version_gets_the_subject(server: NatsServer) -> None:
    theirs = ("more.>", *OLD_SUBJECTS)
    wanted = (*theirs, "ForgetUser", "ForgetUser.>")
    with asking(server.url) as js:
        js.create_stream({"name": "ALARMS", "subjects": theirs, "max_age": 10**15})
        with ServiceProcess(server.url, mode="stream", options=OPTIONS) as service:
            assert info_of(js, "ALARMS").subjects == theirs
            # Who lets a program publish it is told that nobody keeps that.
            assert "does not capture ForgetUser, ForgetUser.>, so what a program" in service.log
            checked = run_command("check-config", "--server", server.url, "--mode", "stream")
            assert f"nats stream edit ALARMS --subjects '{','.join(wanted)}'" in checked.stderr
            refused = run_command("forget", "ada", "--server", server.url, "--no-create-streams")
            assert refused.returncode == exit_codes.USAGE
            assert refused.stderr == (
                "alarmdigest: stream ALARMS does not capture ForgetUser: nats stream edit "
                f"ALARMS --subjects '{','.join(wanted)}'\n"
            )
            assert "message 1 of ALARMS" in run(server, "forget", "ada")
        found = info_of(js, "ALARMS")
        assert found.subjects == wanted
        assert found.config["max_age"] == 10**15


def test_a_subject_that_another_stream_has(server: NatsServer) -> None:
    with asking(server.url) as js:
        js.create_stream({"name": "ALARMS", "subjects": OLD_SUBJECTS})
        js.create_stream({"name": "THEIRS", "subjects": ["ForgetUser"]})
        refused = run_command("forget", "ada", "--server", server.url)
        assert refused.returncode == exit_codes.USAGE
        assert "stream ALARMS does not capture ForgetUser, stream THEIRS does" in refused.stderr
        assert "--forget-subject" in refused.stderr
        with ServiceProcess(server.url, mode="stream", options=OPTIONS) as service:
            assert "THEIRS captures ForgetUser, and a subject can be in one" in service.log


def test_who_may_not_change_the_stream_is_told_how() -> None:
    allowed = 'publish: { allow: ["ForgetUser", "$JS.API.STREAM.INFO.ALARMS", "$JS.API.INFO"] }'
    with ChangingServer(extra=users(allowed)) as guarded:
        clerk, boss = guarded.url_of("service"), guarded.url_of("bus")
        with asking(boss) as js:
            js.create_stream({"name": "ALARMS", "subjects": OLD_SUBJECTS})
            refused = run_command("forget", "ada", NATS_URL=clerk)
            assert refused.returncode == exit_codes.USAGE
            assert "we may not change that: nats stream edit ALARMS --subjects" in refused.stderr
            assert run_command("forget", "ada", NATS_URL=boss).returncode == 0
            done = run_command("forget", "ada", NATS_URL=clerk)
            assert done.returncode == 0
            assert (
                "what KV_ALARM_DETAILS holds about ada, if it is in use, is still there"
                in done.stderr
            )
            assert info_of(js, "ALARMS").last_seq == 2


def test_the_schedule_of_a_user_goes_too(server: NatsServer) -> None:
    for user in ("ada", "bob"):
        schedule(server.url, "set", user, "--within", "1m")
    schedule(server.url, "set", "--default", "--within", "1m")
    with ServiceProcess(server.url, mode="stream", options=OPTIONS):
        told = json.loads(run(server, "forget", "ada", "--json"))
        assert told["entries_removed"] == 1
    left = schedule(server.url, "list", "--json").stdout
    assert [json.loads(line)["UserID"] for line in left.splitlines()] == [None, "bob"]


def test_an_alarm_is_cleared(server: NatsServer) -> None:
    with (
        ServiceProcess(server.url, mode="stream", options=OPTIONS) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all([event("ada", "a b"), event("ada", "other")])
        bus.flush()
        told = json.loads(run(server, "clear", "ada", "a b", "--json"))
        assert told == {"UserID": "ada", "AlarmID": "a b", "stream": "ALARMS", "sequence": 3}
        bus.publish_all([request("ada")])
        [digest] = bus.wait_for_digests(1)
        assert alarms_in(digest) == ["other"]
        assert service.metric("alarmdigest_active_alarms") == 1
        for gone in ("a b", "never"):
            none = run_command("clear", "ada", gone, "--server", server.url)
            assert none.returncode == exit_codes.INTERNAL_ERROR
        assert "there is none, says the running service" in none.stderr
        # An event that says a later time than now is cleared as well.
        later = time.time_ns() + 1800 * 10**9
        ahead = {"UserID": "ada", "AlarmID": "ahead", "Status": "CRITICAL"}
        ahead["ChangedAt"] = timestamps.to_text(later)
        bus.publish_all([("AlarmStatusChanged", orjson.dumps(ahead))])
        bus.flush()
        eventually(lambda: service.metric("alarmdigest_active_alarms") == 2, what="it to be merged")
        run(server, "clear", "ada", "ahead")
        eventually(
            lambda: service.metric("alarmdigest_active_alarms") == 1, what="it to be cleared"
        )


def test_nobody_says_whether_there_is_such_an_alarm(server: NatsServer) -> None:
    with asking(server.url) as js:
        js.create_stream({"name": "ALARMS", "subjects": OLD_SUBJECTS})
        done = run_command("clear", "ada", "a", "--server", server.url)
        assert done.returncode == 0
        assert "not known whether there is such an alarm" in done.stderr
        assert info_of(js, "ALARMS").last_seq == 1


@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ("", "USER must have 1 to 1024 bytes, and has 0"),
        ("é" * (MAX_ID_BYTES // 2) + "x", "USER must have 1 to 1024 bytes, and has 1025"),
        ("\udcff", "USER is not text in UTF-8"),
    ],
)
@pytest.mark.parametrize("command", ["forget", "clear"])
def test_what_can_be_no_id(server: NatsServer, command: str, user: str, problem: str) -> None:
    rest = ["a"] if command == "clear" else []
    done = run_command(command, user, *rest, "--server", server.url)
    assert done.returncode == exit_codes.USAGE
    assert problem in done.stderr


def test_where_nobody_listens(server: NatsServer) -> None:
    missing = run_command("forget", "ada", "--server", server.url)
    assert missing.returncode == exit_codes.USAGE
    assert "there is no stream ALARMS" in missing.stderr
    away = run_command("forget", "ada", "--server", "nats://127.0.0.1:1")
    assert away.returncode == exit_codes.NATS_NOT_REACHABLE


def test_permissions_of_before_do_not_stop_core_mode() -> None:
    old = ", ".join(f'"{one}"' for one in OLD_SUBJECTS)
    allowed = f'subscribe: {{ allow: [{old}, "_INBOX.>", "$SRV.>"] }}'
    with ChangingServer(extra=users(allowed)) as guarded:
        service = ServiceProcess(
            mode="core",
            options=OPTIONS,
            environment={"NATS_URL": guarded.url_of("service")},
        )
        with service, Bus(guarded.url_of("bus")) as bus:
            assert "we may not subscribe to ForgetUser, so that nobody" in service.log
            bus.publish_all([event("ada", "a"), request("ada")])
            assert len(bus.wait_for_digests(1)) == 1
