"""The bridge as a process, on a real nats-server: 200 means that the stream has it."""

from __future__ import annotations

import json
import re
import signal
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

from alarmdigest.connect.detail_keys import key_of
from alarmdigest.runtime import exit_codes

pytestmark = pytest.mark.bridge


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
