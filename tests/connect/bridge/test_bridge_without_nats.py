"""What the bridge answers while NATS, a stream, a bucket or a permission is missing."""

from __future__ import annotations

import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.nats_server import NatsServer
from support.paths import ROOT
from support.wait import eventually

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


def test_a_server_without_jetstream_is_named() -> None:
    with NatsServer(jetstream=False) as plain:
        bridge = BridgeProcess(plain.url)
        try:
            bridge.start(ready=False).wait_for_log("the server has no JetStream")
            assert "no JetStream" in bridge.post("/alertmanager", webhook(alert()))[1]["error"]
            assert bridge.log.count("connected name=alarmdigest-bridge server=") == 1
        finally:
            bridge.end()
