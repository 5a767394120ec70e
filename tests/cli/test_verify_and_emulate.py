"""`verify` and `emulate` pass on a service that works, and notice one that does not."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy
from support.bus import Bus
from support.command import run_command
from support.jetstream import asking, connected
from support.nats_server import HOST, NatsServer, free_port
from support.raw import frames_of, publish_raw
from support.service import ServiceProcess
from support.streams import DIGESTS, delete, js, update
from support.wait import eventually
from support.wrong_program import forgets_batches_once_there_is

from alarmdigest.cli.subscription import Subscription

QUICK = ("--shots", "1", "--bursts", "2")


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def test_verify_passes_with_a_running_service(server: NatsServer) -> None:
    with ServiceProcess(server.url) as service:
        service.wait_for_log("name=alarmdigest-micro")
        result = run_command("verify", "--server", server.url)
        assert result.returncode == 0
        assert re.fullmatch(
            rf"testing on {server.url} \(nats-server [\d.]+\): a service in core mode\n",
            result.stderr,
        )
        assert result.stdout.splitlines() == [
            'waiting to consume "AlarmDigest" messages',
            "Smoke test passed",
        ]
        assert service.metric("alarmdigest_book_alarms_sent_total") == 2


def test_verify_reads_the_stream_that_receivers_read() -> None:
    """In stream mode what a plain subscriber hears proves nothing."""
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="stream") as service,
        Bus(server.url) as bus,
    ):
        service.wait_for_log("name=alarmdigest-micro")
        tool = "verify", "--server", server.url, "--timeout", "1s"
        result = run_command(*tool)
        assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "Smoke test passed")
        consumers = bus.run(js(bus).consumers_info(DIGESTS))
        assert consumers == []  # it leaves nothing behind

        update(bus, DIGESTS, max_msgs=1, discard=DiscardPolicy.NEW)
        result = run_command(*tool)
        assert result.returncode == 1
        assert re.search(
            "failed: a digest was published on AlarmDigest, but .* not get into ALARM_DIGESTS",
            result.stdout,
        )
        service.kill()
        delete(bus, DIGESTS)
        result = run_command(*tool, "--mode", "stream")
        assert result.returncode == 1
        assert "failed: ALARM_DIGESTS, which receivers read: " in result.stdout
        assert "stream not found" in result.stdout


def test_who_may_not_look_into_the_stream_is_told_that_it_was_not_tested() -> None:
    may = 'publish: { deny: ["$JS.>"] }'
    users = (
        f"[{{ user: tool, password: p, permissions: {{ {may} }} }}, {{ user: us, password: p }}]"
    )
    with NatsServer(extra=f"authorization {{ users: {users} }}") as server:
        us, tool = (f"nats://{name}:p@{HOST}:{server.port}" for name in ("us", "tool"))
        with ServiceProcess(mode="stream", environment={"NATS_URL": us}) as service:
            service.wait_for_log("name=alarmdigest-micro")
            result = run_command("verify", NATS_URL=tool)
    assert result.returncode == 0, result.stdout
    assert "cannot look into ALARM_DIGESTS" in result.stderr
    assert "ermissions" in result.stderr


def test_tools_name_the_server_first_and_never_a_secret() -> None:
    tool = "verify", "--timeout", "200ms"
    login = 'authorization { user: me, password: "s3cret" }'
    with NatsServer(extra=login) as server:
        url = f"nats://me:s3cret@{HOST}:{server.port}"
        result = run_command(*tool, NATS_URL=url)
        assert result.returncode == 1
        assert result.stderr.startswith(f"testing on {server.url} (nats-server ")
        assert result.stderr.endswith(": no service there tells its mode\n")
        assert "s3cret" not in result.stderr + result.stdout
        with ServiceProcess(mode="stream", environment={"NATS_URL": url}) as service:
            service.wait_for_log("name=alarmdigest-micro")
            for each in (tool, ("emulate", *QUICK)):
                result = run_command(*each, NATS_URL=url)
                assert result.stderr.startswith(f"testing on {server.url} (nats-server ")
                assert ": a service in stream mode\n" in result.stderr
            # Whoever has other subjects is not tested.
            others = run_command(*tool, "--request-subject", "R", NATS_URL=url)
            assert ": no service there tells its mode\n" in others.stderr


def test_who_may_not_ask_for_the_mode_may_test_all_the_same() -> None:
    may = 'publish: { deny: ["$SRV.>"] }'
    users = f"users: [{{ user: tool, password: p, permissions: {{ {may} }} }}]"
    with NatsServer(extra=f"authorization {{ {users} }}") as server:
        url = f"nats://tool:p@{HOST}:{server.port}"
        with ServiceProcess(environment={"NATS_URL": url}):
            result = run_command("verify", NATS_URL=url)
    assert result.returncode == 0, result.stdout
    assert "no service there tells its mode" in result.stderr


def test_the_mode_is_asked_for_within_the_inbox_that_the_server_allows() -> None:
    """A user who may do no more than the tools need, and be answered below one prefix."""
    may = """
        publish: { allow: ["AlarmStatusChanged", "AlarmStatusChanged.>", "SendAlarmDigest",
                           "SendAlarmDigest.>", "$SRV.PING.alarmdigest"] }
        subscribe: { allow: ["AlarmDigest", "_MINE.>"] }
    """
    tool = f"{{ user: tool, password: p, permissions: {{ {may} }} }}"
    users = f"users: [{tool}, {{ user: service, password: p }}]"
    with NatsServer(jetstream=False, extra=f"authorization {{ {users} }}") as server:
        urls = {name: f"nats://{name}:p@{HOST}:{server.port}" for name in ("tool", "service")}
        with ServiceProcess(environment={"NATS_URL": urls["service"]}) as service:
            service.wait_for_log("name=alarmdigest-micro")
            for command in (("verify",), ("emulate", *QUICK)):
                result = run_command(*command, "--inbox-prefix", "_MINE", NATS_URL=urls["tool"])
                assert result.returncode == 0, result.stdout
                assert ": a service in core mode\n" in result.stderr
        assert "iolation" not in server.log


def test_a_server_without_room_for_a_second_connection_spoils_no_test() -> None:
    """The service takes three, and the tool itself the fourth."""
    few = "max_connections: 4"
    with (
        NatsServer(jetstream=False, extra=few) as server,
        ServiceProcess(server.url) as service,
    ):
        service.wait_for_log("name=alarmdigest-micro")
        result = run_command("verify", "--server", server.url)
        assert "maximum connections exceeded" in server.log
    assert result.returncode == 0, result.stderr
    assert "no service there tells its mode" in result.stderr


def test_an_answer_with_headers_is_one(server: NatsServer) -> None:
    about = {"mode": "stream", "requests": "SendAlarmDigest", "digests": "AlarmDigest"}
    with Bus(server.url) as bus:

        async def answer(ping: Msg) -> None:
            for body in (b"no JSON", orjson.dumps({"metadata": about})):
                await bus.client.publish(ping.reply, body, headers={"Trace": "1"})

        bus.run(bus.client.subscribe("$SRV.PING.alarmdigest", cb=answer))
        bus.flush()
        result = run_command("verify", "--server", server.url, "--timeout", "200ms")
        assert ": a service in stream mode\n" in result.stderr


def test_verify_takes_the_subjects_of_the_service(server: NatsServer) -> None:
    subjects = ("--event-subject", "E.v", "--request-subject", "R.q", "--digest-subject", "D.g")
    with ServiceProcess(server.url, options=subjects):
        result = run_command("verify", "--server", server.url, *subjects)
        assert result.returncode == 0, result.stdout
        assert 'waiting to consume "D.g" messages' in result.stdout


def test_verify_without_a_service_says_what_it_missed(server: NatsServer) -> None:
    result = run_command("verify", "--server", server.url, "--timeout", "200ms")
    assert result.returncode == 1
    first, last = result.stdout.splitlines()
    assert first == 'waiting to consume "AlarmDigest" messages'
    assert last.startswith("Smoke test failed: no digest on AlarmDigest within 0.2 s")
    assert "AlarmStatusChanged" in last
    assert "SendAlarmDigest" in last


def test_emulate_accounts_for_every_digest_of_a_running_service(server: NatsServer) -> None:
    with ServiceProcess(server.url) as service, Bus(server.url) as bus:
        result = run_command("emulate", "--server", server.url, "--shots", "20", "--bursts", "60")
        assert result.returncode == 0, result.stderr
        assert result.stderr.startswith(f"testing on {server.url} ")
        assert result.stdout.startswith(
            "1200 digests expected, 1200 received, 0 missing, 0 doubled, 0 wrong, in "
        )
        # Every message came on two subjects, and every alarm is cleared at the end.
        cleared = 1200
        eventually(
            lambda: service.metric("alarmdigest_book_events_total") == 2 * 1200 + cleared,
            what="all events",
        )
        assert service.metric("alarmdigest_book_requests_total") == 2 * 1200
        users = [one.json["UserID"] for one in bus.wait_for_digests(1200)]
        assert len(set(users)) == len(users) == 1200


def test_emulate_publishes_once_more_what_the_stream_did_not_store(server: NatsServer) -> None:
    """As agents do that wait for an answer: it is no fault of the service."""
    quick = ("--shots", "150", "--bursts", "20")
    with ServiceProcess(server.url, mode="stream") as service:
        tool = subprocess.Popen(
            [sys.executable, "-m", "alarmdigest", "emulate", "--server", server.url, *quick],
            stdout=subprocess.PIPE,
            text=True,
        )
        read = "alarmdigest_stream_position"
        eventually(lambda: service.metric(read) > 500, what="some traffic")
        with asking(server.url) as js:
            js.request("STREAM.DELETE.ALARMS", {})
        told, _ = tool.communicate(timeout=60)
    assert tool.returncode == 0, told
    assert "3000 digests expected, 3000 received, 0 missing, 0 doubled, 0 wrong" in told
    assert "was published once more: a stream that has no leader" in told


@pytest.mark.slow
def test_emulate_does_not_make_up_for_what_a_service_loses(
    server: NatsServer, tmp_path: Path
) -> None:
    """The stream has stored all of it: nothing is published once more."""
    program = forgets_batches_once_there_is(tmp_path)
    with ServiceProcess(server.url, mode="stream", program=program):
        result = run_command("emulate", "--server", server.url, "--shots", "20", "--bursts", "20")
    assert result.returncode == 1
    assert ", 0 missing" not in result.stdout
    assert "once more" not in result.stdout


@pytest.mark.parametrize(("tool", "alarms"), [(("verify",), 1), (("emulate", *QUICK), 2)])
def test_tools_leave_no_active_alarm_behind(
    server: NatsServer, tool: tuple[str, ...], alarms: int
) -> None:
    latest: dict[str, tuple[str, str]] = {}  # the greatest time of each alarm, and its status
    with ServiceProcess(server.url), Bus(server.url) as bus:

        async def note(event: Msg) -> None:
            fields = orjson.loads(event.data)
            this = (fields["ChangedAt"], fields["Status"])
            latest[fields["AlarmID"]] = max(latest.get(fields["AlarmID"], this), this)

        for subject in ("AlarmStatusChanged", "AlarmStatusChanged.>"):
            bus.run(bus.client.subscribe(subject, cb=note))
        bus.flush()
        assert run_command(*tool, "--server", server.url).returncode == 0
        bus.flush()
        eventually(
            lambda: [status for _time, status in latest.values()] == ["CLEARED"] * alarms,
            what="every alarm's last event",
        )


def test_tools_pass_with_a_service_that_publishes_empty_digests(server: NatsServer) -> None:
    with ServiceProcess(server.url, options=["--publish-empty"]) as service:
        for tool in (("verify",), ("emulate", *QUICK)):
            result = run_command(*tool, "--server", server.url)
            assert result.returncode == 0, result.stdout
        # One that verify asks for, and the second request of each of the two users.
        assert service.metric("alarmdigest_book_empty_requests_total") == 3


def test_tools_report_a_service_that_answers_wrongly(server: NatsServer) -> None:
    with Bus(server.url) as bus:

        async def lie(request: Msg) -> None:
            user = orjson.loads(request.data)["UserID"]
            digest = orjson.dumps({"UserID": user, "ActiveAlarms": []})
            await bus.client.publish("AlarmDigest", digest)

        bus.run(bus.client.subscribe("SendAlarmDigest", cb=lie))
        bus.flush()
        result = run_command("verify", "--server", server.url)
        assert result.returncode == 1
        assert "Smoke test failed: expected the digest" in result.stdout
        result = run_command("emulate", "--server", server.url, *QUICK)
        assert result.returncode == 1
        assert "2 digests expected, 2 received, 0 missing, 0 doubled, 2 wrong" in result.stdout


def test_tools_notice_a_digest_that_comes_twice(server: NatsServer) -> None:
    with ServiceProcess(server.url), Bus(server.url) as bus:

        async def repeat(digest: Msg) -> None:
            if not digest.headers or "Again" not in digest.headers:
                await bus.client.publish("AlarmDigest", digest.data, headers={"Again": "yes"})

        bus.run(bus.client.subscribe("AlarmDigest", cb=repeat))
        bus.flush()
        result = run_command("verify", "--server", server.url)
        assert result.returncode == 1
        result = run_command("emulate", "--server", server.url, *QUICK)
        assert result.returncode == 1
        assert "2 digests expected, 2 received, 0 missing, 2 doubled, 0 wrong" in result.stdout


def test_a_digest_that_comes_again_with_its_id_is_told_and_no_failure(server: NatsServer) -> None:
    """A leader of a group may send some again; their stream holds them once."""
    with ServiceProcess(server.url), Bus(server.url) as bus:

        async def repeat(digest: Msg) -> None:
            headers = digest.headers or {}
            if "Again" not in headers:
                await bus.client.publish(
                    "AlarmDigest", digest.data, headers={**headers, "Again": "yes"}
                )

        bus.run(bus.client.subscribe("AlarmDigest", cb=repeat))
        bus.flush()
        assert run_command("verify", "--server", server.url).returncode == 0
        result = run_command("emulate", "--server", server.url, *QUICK)
        assert result.returncode == 0, result.stdout
        assert "2 digests expected, 2 received, 0 missing, 0 doubled, 0 wrong" in result.stdout
        assert "2 came once more with the same id" in result.stdout


def test_verify_notices_a_digest_when_nothing_was_due(server: NatsServer) -> None:
    with ServiceProcess(server.url), Bus(server.url) as bus:
        asked: list[bytes] = []

        async def answer_again(request: Msg) -> None:
            asked.append(request.data)
            if len(asked) == 2:  # verify's second on the plain subject, after which none may come
                await bus.client.publish("AlarmDigest", bus.digests[-1].body)

        bus.run(bus.client.subscribe("SendAlarmDigest", cb=answer_again))
        bus.flush()
        result = run_command("verify", "--server", server.url)
        assert result.returncode == 1
        assert "Smoke test failed: nothing was due, but a digest came" in result.stdout


def test_tools_pass_over_what_is_no_digest(server: NatsServer) -> None:
    """Whoever may publish on the subject can write anything there."""
    with ServiceProcess(server.url), Bus(server.url) as bus:

        async def disturb(_request: Msg) -> None:
            for body in (b"", b"\xff", b"[1]", b'{"UserID":["u"]}'):
                await bus.client.publish("AlarmDigest", body)

        bus.run(bus.client.subscribe("AlarmStatusChanged", cb=disturb))
        bus.flush()
        for tool in (("verify",), ("emulate", *QUICK)):
            result = run_command(*tool, "--server", server.url)
            assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("tool", ["verify", "emulate"])
def test_tools_without_a_server_end_with_3(tool: str) -> None:
    url = f"nats://{HOST}:{free_port()}"
    result = run_command(tool, "--server", url)
    assert result.returncode == 3
    assert result.stderr.startswith(f"alarmdigest: {url}: ")
    assert result.stderr.endswith("; is the service's NATS server there?\n")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("tool", ["verify", "emulate"])
def test_tools_take_a_server_url_that_cannot_work_for_a_mistake_in_usage(tool: str) -> None:
    result = run_command(tool, "--server", "nats://:4222")
    assert result.returncode == 2
    assert "cannot use server URL" in result.stderr


def test_waiting_for_silence_ends_in_time_where_there_is_none() -> None:
    """Other users' digests may come faster than anybody reads them."""
    with NatsServer(jetstream=False) as server, connected(server.url) as connection:
        subscription = Subscription(connection, "AlarmDigest")
        two = frames_of([("AlarmDigest", b"{}")] * 2)
        publish_raw(server.url, two)
        started = time.monotonic()
        for _message in subscription.messages(started + 0.3):
            publish_raw(server.url, two)  # more than are taken
            assert time.monotonic() < started + 5, "it goes on for as long as they come"
