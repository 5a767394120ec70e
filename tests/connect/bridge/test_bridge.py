"""The bridge as a process, on a real nats-server: 200 means that the stream has it."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.bus import Bus
from support.command import run_command
from support.inputs import request
from support.nats_server import HOST, NatsServer, free_port
from support.paths import ROOT
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.connect.bridge.details import key_of
from alarmdigest.runtime import exit_codes

pytestmark = pytest.mark.bridge

PERMISSIONS = (ROOT / "deploy/nats-permissions-bridge.conf").read_text("utf-8")


def guarded(permissions: str) -> str:
    """Of a server whose user b, for bridge, has these, and whose user t may do everything."""
    return f"""
authorization {{ users: [
  {{ user: b, password: b, {permissions} }}
  {{ user: t, password: t }}
] }}
"""


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def streams(server: NatsServer) -> Iterator[Streams]:
    streams = Streams(server)
    yield streams
    streams.close()


def test_200_means_that_the_stream_has_it_and_the_bucket_its_details(
    server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        texts = {"summary": "slow", "runbook_url": "https://wiki.example.com/slow"}
        body = webhook(alert(team="ada", severity="critical", annotations=texts))
        assert bridge.post("/alertmanager", body) == (
            200,
            {"alarms": 1, "rejected": 0, "ignored": 0},
        )
    name = 'HighLatency{severity="critical",team="ada"}'
    assert streams.events() == [("ada", name, "CRITICAL", "2026-11-28T10:00:00.123000000Z")]
    [stored] = streams.bodies("KV_ALARM_DETAILS")
    assert (stored["UserID"], stored["AlarmID"], stored["summary"]) == ("ada", name, "slow")
    found = streams.js.find_message(
        "KV_ALARM_DETAILS", {"last_by_subj": f"$KV.ALARM_DETAILS.{key_of('ada', name)}"}
    )
    assert found is not None
    assert json.loads(found.payload) == stored


def test_an_alert_becomes_an_alarm_in_a_digest(server: NatsServer) -> None:
    with (
        ServiceProcess(server.url, mode="stream") as _service,
        BridgeProcess(server.url) as bridge,
        Bus(server.url) as bus,
    ):
        bridge.post("/alertmanager", webhook(alert(user="ada"), alert("Other", user="bob")))
        bus.publish_all([request("ada")])
        [digest] = bus.wait_for_digests(1)
        assert digest.json == {
            "UserID": "ada",
            "ActiveAlarms": [
                {
                    "AlarmID": 'HighLatency{user="ada"}',
                    "Status": "WARNING",
                    "LatestChangedAt": "2026-11-28T10:00:00.123000000Z",
                }
            ],
        }


def test_what_is_repeated_is_in_the_stream_once(server: NatsServer, streams: Streams) -> None:
    with BridgeProcess(server.url) as bridge:
        for _ in range(3):
            assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200
        assert bridge.metric("alarmdigest_bridge_duplicates_total") == 2
        assert bridge.metric("alarmdigest_bridge_details_written_total") == 1
    assert streams.info("ALARMS").messages == 1


def test_a_rejected_alert_among_others_goes_to_the_rejected_and_the_answer_is_200(
    server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        body = webhook(alert(user="ada"), alert(status="purple"), alert(user="u" * 1025))
        assert bridge.post("/alertmanager", body) == (
            200,
            {"alarms": 1, "rejected": 2, "ignored": 0},
        )
        samples = 'alarmdigest_bridge_alerts_total{result="rejected",sender="alertmanager"}'
        assert bridge.metric(samples) == 2
    first, second = streams.messages("ALARM_REJECTED")
    assert b"Alarmdigest-Reason: status\r\n" in first[0]
    assert b"Alarmdigest-Subject: bridge/alertmanager\r\n" in first[0]
    assert json.loads(first[1])["status"] == "purple"
    assert b"Alarmdigest-Reason: too_long\r\n" in second[0]
    assert streams.info("ALARMS").messages == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", b"json"),
        (b"nonsense", b"json"),
        (b'{"alerts": [\xff]}', b"json"),
        (b"[" * 100_000, b"json"),
        (b"{}", b"schema"),
        (b'{"alerts": [], "version": "99"}', b"schema"),
    ],
)
def test_a_body_that_nobody_can_read_is_kept_and_answered_with_400(
    body: bytes, reason: bytes, server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        status, answer = bridge.post("/alertmanager", body)
        assert status == 400
        assert answer["error"]
        assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200
    [(headers, kept)] = streams.messages("ALARM_REJECTED")
    assert b"Alarmdigest-Reason: " + reason + b"\r\n" in headers
    assert body.startswith(kept)


def test_a_large_body_that_nobody_can_read_is_kept_as_far_as_the_server_takes_it(
    server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        for size in (500_000, 3_000_000):
            assert bridge.post("/alertmanager", b"x" * size)[0] == 400
        assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200
    (whole_headers, whole), (cut_headers, cut) = streams.messages("ALARM_REJECTED")
    assert (len(whole), b"Alarmdigest-Cut" in whole_headers) == (500_000, False)
    assert b"Alarmdigest-Cut: true" in cut_headers
    assert 1_000_000 < len(cut) < 1024 * 1024


@pytest.mark.usefixtures("streams")
def test_without_nats_it_says_503_until_nats_is_back(server: NatsServer) -> None:
    with BridgeProcess(server.url) as bridge:
        assert bridge.http("/readyz") == (200, "ok\n")
        server.kill()
        body = webhook(alert(user="ada"))
        eventually(lambda: bridge.http("/readyz")[0] == 503, what="not ready")
        status, answer = bridge.post("/alertmanager", body)
        assert status == 503
        assert answer["error"]
        assert bridge.http("/healthz") == (200, "ok\n")
        server.start()
        eventually(lambda: bridge.post("/alertmanager", body)[0] == 200, timeout=20)
    assert Streams(server, create=False).info("ALARMS").messages == 1


def test_a_server_that_stands_still_gets_503_in_time(server: NatsServer, streams: Streams) -> None:
    rules = '[http]\nanswer_timeout = "500ms"'
    with BridgeProcess(server.url, rules=rules) as bridge:
        server.pause()
        began = time.monotonic()
        status, answer = bridge.post("/alertmanager", webhook(alert(user="ada")))
        assert status == 503
        assert "NATS has not confirmed it within 0.5 s" in answer["error"]
        assert time.monotonic() - began < 5
        server.resume()
        eventually(
            lambda: bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200, timeout=20
        )
    assert streams.info("ALARMS").messages == 1


def test_what_was_answered_with_503_is_not_published_later(
    server: NatsServer, streams: Streams
) -> None:
    """Its sender repeats it, perhaps at another bridge, and then tells how it goes on."""
    rules = '[http]\nanswer_timeout = "300ms"'
    with BridgeProcess(server.url, rules=rules) as bridge, ThreadPoolExecutor(4) as pool:
        server.pause()
        answers = [pool.submit(bridge.post, "/alertmanager", webhook(alert("A0", user="ada")))]
        eventually(
            lambda: (
                bridge.metric("alarmdigest_bridge_unconfirmed_requests") == 1
                and bridge.metric("alarmdigest_bridge_waiting") == 0
            ),
            what="one that is with the server",
        )
        # Those behind it wait, and are given up.
        answers += [
            pool.submit(bridge.post, "/alertmanager", webhook(alert(f"A{n}", user="ada")))
            for n in (1, 2, 3)
        ]
        assert [answer.result(20)[0] for answer in answers] == [503] * 4
        server.resume()
        last = webhook(alert("Last", user="ada"))
        eventually(lambda: bridge.post("/alertmanager", last)[0] == 200, timeout=20)
    assert {one[1][:2] for one in streams.events()} <= {"A0", "La"}


@pytest.mark.parametrize("stream", ["ALARMS", "ALARM_REJECTED"])
def test_a_stream_that_is_deleted_makes_it_not_ready(
    stream: str, server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        streams.js.request(f"STREAM.DELETE.{stream}")
        body = webhook(alert(user="ada"), alert(status="purple"))
        assert bridge.post("/alertmanager", body)[0] == 503

        def not_ready() -> bool:
            status, text = bridge.http("/readyz")
            return status == 503 and f"there is no stream {stream}" in text

        eventually(not_ready, timeout=20, what="not ready")
        streams.create()
        eventually(lambda: bridge.post("/alertmanager", body)[0] == 200, timeout=20)


def test_it_waits_for_the_stream_of_a_service_that_is_not_there_yet(server: NatsServer) -> None:
    bridge = BridgeProcess(server.url)
    try:
        bridge.start(ready=False).wait_for_log("there is no stream ALARMS: start the service")
        assert not re.search(r"\bready\b", bridge.log), "scripts wait for this word"
        status, answer = bridge.post("/alertmanager", webhook(alert(user="ada")))
        assert status == 503
        assert "start the service" in answer["error"]
        streams = Streams(server)
        bridge.wait_for_log(r"ready stream=ALARMS")
        assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200
        streams.close()
    finally:
        bridge.end()


def test_a_stream_of_another_name_is_not_taken_for_ours(
    server: NatsServer, streams: Streams
) -> None:
    """Someone deletes ALARMS and lets another stream capture the subject, while we run."""
    with BridgeProcess(server.url) as bridge:
        streams.js.request("STREAM.DELETE.ALARMS")
        streams.js.create_stream({"name": "OTHER", "subjects": ["AlarmStatusChanged"]})
        status, _answer = bridge.post("/alertmanager", webhook(alert(user="ada")))
        assert status == 503
    assert streams.info("OTHER").messages == 0


def test_a_stream_that_is_full_is_503(server: NatsServer, streams: Streams) -> None:
    config = streams.info("ALARMS").config
    streams.js.request("STREAM.UPDATE.ALARMS", {**config, "max_msgs": 1, "discard": "new"})
    with BridgeProcess(server.url) as bridge:
        assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200
        status, answer = bridge.post("/alertmanager", webhook(alert(user="bob")))
        assert status == 503
        assert "maximum messages exceeded" in answer["error"]
        assert bridge.http("/readyz")[0] == 200


def test_details_that_may_not_be_written_cost_no_alarm() -> None:
    denied = PERMISSIONS.replace('"$KV.ALARM_DETAILS.>"', "")
    with NatsServer(extra=guarded(denied)) as server:
        with_user = server.url.replace("nats://", "nats://t:t@")
        streams = Streams(server, create=False, url=with_user)
        streams.create()
        environment = {"NATS_URL": server.url.replace("nats://", "nats://b:b@")}
        with BridgeProcess(environment=environment) as bridge:
            for name in ("ada", "bob"):
                assert bridge.post("/alertmanager", webhook(alert(user=name)))[0] == 200
            assert bridge.metric("alarmdigest_bridge_details_failed_total") == 2
            bridge.wait_for_log("details are not stored.*may not publish")
        assert streams.info("ALARMS").messages == 2
        streams.close()


def test_with_the_permissions_as_shipped_it_does_all_of_its_work() -> None:
    with NatsServer(extra=guarded(PERMISSIONS)) as server:
        streams = Streams(server, create=False, url=server.url.replace("nats://", "nats://t:t@"))
        streams.create()
        environment = {"NATS_URL": server.url.replace("nats://", "nats://b:b@")}
        with BridgeProcess(environment=environment) as bridge:
            many = [alert(f"A{n}", user="u", status="resolved") for n in range(400)]
            assert bridge.post("/alertmanager", webhook(*many, alert(status="x")))[0] == 200
            with BridgeProcess(environment=environment) as other:
                assert other.post("/alertmanager", webhook(alert("A1", user="u")))[0] == 200
                assert other.metric("alarmdigest_bridge_details_failed_total") == 0
        assert "iolation" not in server.log
        assert streams.info("ALARMS").messages == 401
        assert streams.info("KV_ALARM_DETAILS").messages == 400
        streams.close()


def fired(server: NatsServer, *bridges: BridgeProcess, kill: bool) -> None:
    """Fire, resolve, fire with the same startsAt, each to another bridge."""
    streams = Streams(server, create=False)
    steps = [
        alert(user="ada", starts_at="2026-11-28T10:00:00Z"),
        alert(user="ada", status="resolved", ends_at="2026-11-28T10:05:00Z"),
        alert(user="ada", starts_at="2026-11-28T10:00:00Z"),
        alert(user="ada", starts_at="2026-11-28T10:00:00Z"),
    ]
    for number, step in enumerate(steps):
        bridge = bridges[number % len(bridges)]
        assert bridge.post("/alertmanager", webhook(step))[0] == 200
        newest = max(streams.events(), key=lambda one: one[3])
        assert newest[2] == ("CLEARED" if step["status"] == "resolved" else "WARNING")
        if kill:
            bridge.kill()
            bridge.start()
    events = streams.events()
    streams.close()
    assert [one[2] for one in events] == ["WARNING", "CLEARED", "WARNING"]
    assert max(events, key=lambda one: one[3])[2] == "WARNING"
    assert events[2][3] > "2026-11-28T10:05:00"


@pytest.mark.usefixtures("streams")
def test_flapping_is_right(server: NatsServer) -> None:
    with BridgeProcess(server.url) as bridge:
        fired(server, bridge, kill=False)
        samples = 'alarmdigest_bridge_times_replaced_total{why="fired_again"}'
        assert bridge.metric(samples) == 1


@pytest.mark.usefixtures("streams")
def test_flapping_is_right_through_a_bridge_that_is_killed(server: NatsServer) -> None:
    with BridgeProcess(server.url) as bridge:
        fired(server, bridge, kill=True)


@pytest.mark.usefixtures("streams")
def test_flapping_is_right_through_bridges_that_take_turns(server: NatsServer) -> None:
    with BridgeProcess(server.url) as one, BridgeProcess(server.url) as other:
        fired(server, one, other, kill=False)


def test_a_bridge_reads_what_many_others_have_remembered(
    server: NatsServer, streams: Streams
) -> None:
    """More than it asks for one by one."""
    with BridgeProcess(server.url) as one:
        cleared = [
            alert(f"A{n}", user="ada", status="resolved", ends_at="2026-11-28T10:05:00Z")
            for n in range(3000)
        ]
        assert one.post("/alertmanager", webhook(*cleared))[0] == 200
        with BridgeProcess(server.url) as other:
            assert other.metric("alarmdigest_bridge_remembered") == 3000
            assert one.post("/alertmanager", webhook(*[cleared[0]]))[0] == 200
            again = alert("A2999", user="ada", starts_at="2026-11-28T10:00:00Z")
            assert other.post("/alertmanager", webhook(again))[0] == 200
    assert streams.events()[-1][3] > "2026-11-28T10:05:00"


@pytest.mark.parametrize("bucket", ["ALARM_BRIDGE", "ALARM_DETAILS"])
def test_a_bucket_that_is_deleted_is_made_again(
    bucket: str, server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        cleared = alert(user="ada", status="resolved", ends_at="2026-11-28T10:05:00Z")
        assert bridge.post("/alertmanager", webhook(cleared))[0] == 200
        streams.js.request(f"STREAM.DELETE.KV_{bucket}")
        number = itertools.count()

        def there() -> bool:
            new = alert(f"A{next(number)}", user="ada", status="resolved",
                        ends_at="2026-11-28T10:06:00Z")  # fmt: skip
            # What is answered with 200 can be known to other bridges.
            if bridge.post("/alertmanager", webhook(new))[0] != 200:
                return False
            info = streams.js.stream_info(f"KV_{bucket}")
            assert info is not None or bucket == "ALARM_DETAILS"
            return info is not None and info.messages > 0

        eventually(there, timeout=20, interval=0.1, what=f"{bridge.log}")


def test_what_could_not_be_remembered_is_not_taken_for_remembered(
    server: NatsServer, streams: Streams
) -> None:
    """The bucket refuses the entry once; its sender repeats the request."""
    cleared = alert(user="ada", status="resolved", ends_at="2026-11-28T10:05:00Z")
    again = alert(user="ada", starts_at="2026-11-28T10:00:00Z")
    with BridgeProcess(server.url) as one, BridgeProcess(server.url) as other:
        config = streams.info("KV_ALARM_BRIDGE").config
        streams.js.request("STREAM.UPDATE.KV_ALARM_BRIDGE", {**config, "max_msg_size": 1})
        assert one.post("/alertmanager", webhook(cleared))[0] == 503
        assert streams.info("ALARMS").messages == 0
        streams.js.request("STREAM.UPDATE.KV_ALARM_BRIDGE", config)
        assert one.post("/alertmanager", webhook(cleared))[0] == 200
        assert streams.info("KV_ALARM_BRIDGE").messages == 1
        assert other.post("/alertmanager", webhook(again))[0] == 200
    assert max(streams.events(), key=lambda event: event[3])[2] == "WARNING"


def test_changes_without_times_keep_the_order_of_their_request(
    server: NatsServer, streams: Streams
) -> None:
    body = [{"name": "x", "user": "ada", "status": status} for status in ("critical", "resolved")]
    with BridgeProcess(server.url) as bridge:
        assert bridge.post("/alerts", body)[0] == 200
    assert max(streams.events(), key=lambda event: event[3])[2] == "CLEARED"


def test_changes_with_times_of_their_own_that_are_sent_twice_change_nothing(
    server: NatsServer, streams: Streams
) -> None:
    """As after an answer that was lost: the firing is not one that fires again."""
    body = [
        {"name": "x", "user": "ada", "status": status, "at": f"2026-11-28T10:00:0{second}Z"}
        for second, status in enumerate(("critical", "resolved", "warning", "resolved"))
    ]
    with BridgeProcess(server.url) as bridge:
        for _ in range(2):
            assert bridge.post("/alerts", body)[0] == 200
    assert streams.info("ALARMS").messages == 4
    assert max(streams.events(), key=lambda event: event[3])[2] == "CLEARED"


def test_a_server_without_jetstream_is_named() -> None:
    with NatsServer(jetstream=False) as plain:
        bridge = BridgeProcess(plain.url)
        try:
            bridge.start(ready=False).wait_for_log("the server has no JetStream")
            assert "no JetStream" in bridge.post("/alertmanager", webhook(alert()))[1]["error"]
            assert bridge.log.count("connected name=") == 1
        finally:
            bridge.end()


def test_a_thousand_alerts_in_one_call_and_a_body_of_ten_megabytes(
    server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        many = webhook(*[alert(f"A{n}", user=f"u{n % 7}") for n in range(1000)])
        assert bridge.post("/alertmanager", many)[1]["alarms"] == 1000
        large = webhook(
            *[alert(f"B{n}", user="u", annotations={"summary": "x" * 10_000}) for n in range(1000)]
        )
        assert len(json.dumps(large)) > 10_000_000
        assert bridge.post("/alertmanager", large)[1]["alarms"] == 1000
    assert streams.info("ALARMS").messages == 2000


@pytest.mark.usefixtures("streams")
def test_a_body_that_is_too_large_is_413(server: NatsServer) -> None:
    with BridgeProcess(server.url, rules='[http]\nmax_body = "100KiB"') as bridge:
        status, answer = bridge.post("/alertmanager", b"[" + b" " * 5_000_000)
        assert status == 413
        assert "max_body" in answer["error"]
        assert bridge.post("/alertmanager", webhook(alert(user="ada")))[0] == 200


def test_details_are_bounded(server: NatsServer, streams: Streams) -> None:
    long = {"summary": "s" * 10_000, "description": "d" * 100_000, "runbook_url": "javascript:x"}
    labels = {f"label{n}": "v" * 900 for n in range(50)}
    with BridgeProcess(server.url) as bridge:
        body = webhook(alert(user="ada", annotations=long, **labels))
        assert bridge.post("/alertmanager", body)[0] == 200
    [(_headers, stored)] = streams.messages("KV_ALARM_DETAILS")
    assert len(stored) <= 16 * 1024
    assert len(json.loads(stored)["summary"]) == 500
    assert "runbook" not in json.loads(stored)["links"]
    config = streams.info("KV_ALARM_DETAILS").config
    assert config["max_bytes"] == 256 * 2**20
    assert config["max_age"] == 30 * 86_400 * 10**9


def test_every_metric_is_in_the_documentation_and_the_other_way_round(
    server: NatsServer, streams: Streams
) -> None:
    assert streams.info("ALARMS").messages == 0
    with BridgeProcess(server.url) as bridge:
        assert bridge.post("/alertmanager", webhook(alert(status="purple")))[0] == 200
        _status, text = bridge.http("/metrics")
    shown = {
        name.removesuffix("_bucket") if name.endswith("_bucket") else name
        for name in re.findall(r"^(alarmdigest_\w+)", text, re.MULTILINE)
        if not name.endswith(("_sum", "_count", "_created"))
    }
    page = (ROOT / "docs/bridge.md").read_text("utf-8")
    assert shown == set(re.findall(r"^\| `(alarmdigest_\w+)`", page, re.MULTILINE))


def test_sighup_reads_the_rules_again_and_keeps_them_when_they_are_wrong(
    server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        bridge.rules_file.write_text('[user]\ndefault = "eve"')
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_for_log("reloaded")
        assert bridge.post("/alertmanager", webhook(alert()))[0] == 200
        bridge.rules_file.write_text("[user]\ndefault = 3")
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_for_log("not reloaded: .*default: 3 is no text")
        assert bridge.post("/alertmanager", webhook(alert("Other")))[0] == 200
    assert [one[0] for one in streams.events()] == ["eve", "eve"]


def test_sigterm_answers_what_has_come_and_ends_clean(server: NatsServer, streams: Streams) -> None:
    with BridgeProcess(server.url) as bridge, ThreadPoolExecutor(8) as pool:
        server.pause()
        bodies = [webhook(*[alert(f"A{n}-{m}", user="u") for m in range(50)]) for n in range(8)]
        answers = [pool.submit(bridge.post, "/alertmanager", body) for body in bodies]
        waiting = "alarmdigest_bridge_unconfirmed_requests"
        eventually(lambda: bridge.metric(waiting) == 8, what="eight requests")
        bridge.terminate()
        bridge.wait_for_log("draining")
        server.resume()
        statuses = [answer.result(20)[0] for answer in answers]
        assert bridge.wait() == exit_codes.CLEAN
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    assert streams.info("ALARMS").messages >= 50 * statuses.count(200)


def test_a_drain_that_takes_too_long_is_said(server: NatsServer, streams: Streams) -> None:
    assert streams.info("ALARMS").messages == 0
    options = ("--drain-timeout", "1s")
    rules = '[http]\nanswer_timeout = "1m"'
    with BridgeProcess(server.url, options=options, rules=rules) as bridge:
        with ThreadPoolExecutor(1) as pool:
            server.pause()
            answer = pool.submit(bridge.post, "/alertmanager", webhook(alert(user="ada")))
            waiting = "alarmdigest_bridge_unconfirmed_requests"
            eventually(lambda: bridge.metric(waiting) == 1, what="a request")
            bridge.terminate()
            assert bridge.wait() == exit_codes.DRAIN_TIMED_OUT
            server.resume()
            with suppress(OSError, ValueError):
                assert answer.result(20)[0] != 200
        assert "sent again" in bridge.log


def test_exit_codes(server: NatsServer) -> None:
    def code_of(*servers: str, rules: str = "", options: tuple[str, ...] = ()) -> tuple[int, str]:
        bridge = BridgeProcess(*servers, rules=rules, options=options)
        try:
            return bridge.start(ready=False).wait(), bridge.log
        finally:
            bridge.end()

    code, log = code_of(server.url, rules="[use]")
    assert code == exit_codes.USAGE
    assert "there is no table [use]; do you mean user?" in log
    code, log = code_of(server.url, options=("--listen", f"{HOST}:{server.port}"))
    assert code == exit_codes.USAGE
    assert "choose another with --listen" in log
    code, log = code_of(server.url, options=("--listen", "nowhere"))
    assert code == exit_codes.USAGE
    nobody = f"nats://{HOST}:{free_port()}"
    code, log = code_of(nobody, options=("--connect-timeout", "300ms"))
    assert code == exit_codes.NATS_NOT_REACHABLE
    assert "NATS is not reachable" in log


def test_forget_removes_what_a_bridge_keeps_about_a_user(
    server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        for user in ("ada", "bob"):
            cleared = alert(user=user, status="resolved", ends_at="2026-11-28T10:05:00Z")
            assert bridge.post("/alertmanager", webhook(cleared))[0] == 200
        done = run_command("forget", "ada", "--json", "--server", server.url)
        assert (done.returncode, json.loads(done.stdout)["entries_removed"]) == (0, 2)
    assert [one["UserID"] for one in streams.bodies("KV_ALARM_DETAILS")] == ["bob"]
    assert streams.info("KV_ALARM_BRIDGE").messages == 1


def test_what_a_bridge_has_rejected_is_not_fed_to_the_service(
    server: NatsServer, streams: Streams
) -> None:
    with BridgeProcess(server.url) as bridge:
        assert bridge.post("/alertmanager", webhook(alert(status="purple")))[0] == 200
    done = run_command("rejected", "--refeed", "1", "--server", server.url)
    assert done.returncode == exit_codes.INTERNAL_ERROR
    assert "it came through a bridge" in done.stderr
    assert streams.info("ALARMS").messages == 0
    shown = run_command("rejected", "--server", server.url)
    assert "bridge/alertmanager" in shown.stdout


class Sender:
    """One that repeats until it hears 200, as Alertmanager does. ``firing`` is the truth."""

    def __init__(self, name: str, bridges: list[BridgeProcess], seed: int) -> None:
        self.name = name
        self.firing = False
        self.resolved_at = self.began_at = 0.0
        self.sent = 0
        self._bridges = bridges
        self._dice = random.Random(seed)

    def run(self, until: float) -> None:
        while time.monotonic() < until:
            self.step()

    def step(self) -> None:
        if not self.firing:
            self.firing = True
            if self._dice.random() < 0.5 or not self.began_at:
                self.began_at = time.time()
        elif self._dice.random() < 0.7:
            self.firing, self.resolved_at = False, time.time()
        status = "firing" if self.firing else "resolved"
        body = webhook(
            alert(
                self.name,
                status=status,
                starts_at=rfc3339(self.began_at),
                ends_at="0001-01-01T00:00:00Z" if self.firing else rfc3339(self.resolved_at),
                user="u",
            )
        )
        while True:
            with suppress(OSError, ValueError, AssertionError, http.client.HTTPException):
                if (
                    self._dice.choice(self._bridges).post("/alertmanager", body, timeout=3)[0]
                    == 200
                ):
                    self.sent += 1
                    return
            time.sleep(0.02)


def rfc3339(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}Z"


@pytest.mark.timeout(300)
def test_bridges_and_servers_are_killed_again_and_again_and_nothing_is_lost(
    server: NatsServer, streams: Streams
) -> None:
    """Several senders, two bridges by turns. At the end the latest state of each alarm, by the
    rule of the service, is that of its sender."""
    ports = [free_port(), free_port()]
    with (
        BridgeProcess(server.url, listen=f"{HOST}:{ports[0]}") as one,
        BridgeProcess(server.url, listen=f"{HOST}:{ports[1]}") as other,
    ):
        bridges = [one, other]
        senders = [Sender(f"A{n}", bridges, seed=n) for n in range(6)]
        until = time.monotonic() + 20
        threads = [threading.Thread(target=sender.run, args=(until,)) for sender in senders]
        for thread in threads:
            thread.start()
        dice, kills = random.Random(5), 0
        while time.monotonic() < until - 2:
            time.sleep(dice.uniform(0.2, 1.2))
            if dice.random() < 0.2:
                server.kill()
                server.start()
            else:
                bridge = dice.choice(bridges)
                bridge.kill()
                bridge.start(ready=False)
            kills += 1
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), f"{one.log}\n{other.log}"
    assert kills > 10
    assert sum(sender.sent for sender in senders) > 100
    streams.close()
    after = Streams(server, create=False)
    rank = {"CLEARED": 0, "WARNING": 1, "CRITICAL": 2}
    for sender in senders:
        events = [
            (changed_at, rank[status])
            for _user, name, status, changed_at in after.events()
            if name == f'{sender.name}{{user="u"}}'
        ]
        assert max(events)[1] == int(sender.firing), (sender.name, sorted(events)[-4:])
    after.close()
