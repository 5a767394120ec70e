"""The scheduler as a process, on a real server, with the real service."""

from __future__ import annotations

import re
import time
from contextlib import suppress

import pytest
from nats.aio.msg import Msg
from support.bridge import Streams
from support.bus import Bus
from support.nats_server import NatsServer
from support.paths import ROOT
from support.proxy import Proxy
from support.scheduler import SchedulerProcess, digests, event, requests_by_user, schedule
from support.service import ServiceProcess
from support.wait import eventually

pytestmark = pytest.mark.deliver


def service_on(server: NatsServer, *options: str) -> ServiceProcess:
    return ServiceProcess(server.url, mode="stream", options=options)


def test_a_window_opens_with_the_first_and_a_critical_one_shortens_it(
    server: NatsServer, streams: Streams
) -> None:
    schedule(server.url, "set", "--default", "--within", "3s", "--critical-within", "0s")
    schedule(server.url, "set", "bob", "--within", "1s")
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service"))
        began = time.monotonic()
        for user in ("ada", "bob", "eve"):
            streams.publish("AlarmStatusChanged", event(user))
        streams.publish("AlarmStatusChanged", event("ada", "b"))
        eventually(lambda: digests(streams) == [("bob", ("a",))], what="the digest of bob")
        assert time.monotonic() - began > 0.9
        streams.publish("AlarmStatusChanged", event("eve", "c", "CRITICAL"))
        eventually(lambda: digests(streams)[1:] == [("eve", ("a", "c"))], what="that of eve")
        eventually(lambda: digests(streams)[2:] == [("ada", ("a", "b"))], what="that of ada")
        assert time.monotonic() - began > 2.9
        # One request for each window, and none for whoever has nothing due.
        assert requests_by_user(streams) == {"ada": 1, "bob": 1, "eve": 1}
        assert scheduler.stop() == 0


def test_a_change_of_the_schedule_counts_at_once(server: NatsServer, streams: Streams) -> None:
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        streams.publish("AlarmStatusChanged", event("ada"))
        schedule(server.url, "set", "ada", "--within", "1h")
        schedule(server.url, "pause", "ada")
        schedule(server.url, "set", "ada", "--within", "0s")
        schedule(server.url, "set", "bob", "--within", "0s")
        streams.publish("AlarmStatusChanged", event("bob"))
        eventually(lambda: digests(streams) == [("bob", ("a",))], what="the digest of bob")
        schedule(server.url, "resume", "ada")
        eventually(lambda: digests(streams)[1:] == [("ada", ("a",))], what="the digest of ada")
        # Whoever has no schedule any more is told nothing.
        schedule(server.url, "remove", "bob")
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_schedules") == 1)
        streams.publish("AlarmStatusChanged", event("bob", "b"))
        streams.publish("AlarmStatusChanged", event("ada", "b"))
        eventually(lambda: len(digests(streams)) == 3, what="the third digest")
        assert digests(streams)[2] == ("ada", ("b",))
        schedule(server.url, "set", "--default", "--within", "0s")
        eventually(lambda: digests(streams)[3:] == [("bob", ("b",))], what="the default")


def test_it_says_when_nobody_has_a_schedule(server: NatsServer, streams: Streams) -> None:
    nobody = "nobody has a schedule, so no requests are sent"
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        scheduler.wait_for_log(nobody)
        schedule(server.url, "set", "--default", "--within", "1h")
        streams.publish("AlarmStatusChanged", event("ada"))
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_waiting") == 1)
        assert scheduler.log.count(nobody) == 1
        scheduler.stop()
        scheduler.start()
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_waiting") == 1)
        assert nobody not in scheduler.log


def test_what_was_missed_while_all_were_down_is_sent_once(
    server: NatsServer, streams: Streams
) -> None:
    schedule(server.url, "set", "--default", "--within", "1ms")
    with service_on(server) as service, SchedulerProcess(server.url) as first:
        streams.publish("AlarmStatusChanged", event("ada"))
        eventually(lambda: len(digests(streams)) == 1, what="the first digest")
        first.kill()
        for user in ("ada", "bob"):
            streams.publish("AlarmStatusChanged", event(user, "b"))
        service.kill()
        service.start()
        with SchedulerProcess(server.url), SchedulerProcess(server.url):
            eventually(lambda: len(digests(streams)) == 3, what="what was missed", timeout=20)
            streams.publish("AlarmStatusChanged", event("eve"))
            eventually(lambda: len(digests(streams)) == 4, what="what comes next")
    assert sorted(digests(streams)[1:3]) == [("ada", ("b",)), ("bob", ("b",))]
    assert requests_by_user(streams) == {"ada": 2, "bob": 1, "eve": 1}


@pytest.mark.parametrize("failpoint", ["scheduler.before_send", "scheduler.after_send"])
def test_one_acts_and_when_it_dies_the_other_sends_what_it_did_not(
    server: NatsServer, streams: Streams, failpoint: str
) -> None:
    schedule(server.url, "set", "--default", "--within", "100ms")
    with service_on(server), SchedulerProcess(server.url, failpoint=failpoint) as first:
        eventually(lambda: first.acting, what="the first to act")
        with SchedulerProcess(server.url) as second:
            assert not second.acting
            streams.publish("AlarmStatusChanged", event("ada"))
            assert first.wait() != 0
            eventually(lambda: second.acting, what="the second to act", timeout=20)
            eventually(lambda: digests(streams) == [("ada", ("a",))], what="the digest")
            streams.publish("AlarmStatusChanged", event("bob"))
            eventually(lambda: len(digests(streams)) == 2, what="the digest of bob")
    assert requests_by_user(streams) == {"ada": 1, "bob": 1}


@pytest.mark.usefixtures("streams")
def test_who_stops_hands_over_at_once(server: NatsServer) -> None:
    schedule(server.url, "set", "--default", "--within", "0s")
    with service_on(server), SchedulerProcess(server.url) as first:
        eventually(lambda: first.acting, what="the first to act")
        with SchedulerProcess(server.url) as second:
            assert first.stop() == 0
            eventually(lambda: second.acting, what="the second to act", timeout=3)
            assert "another one acts now" not in second.log


def test_the_service_is_asked_again_when_it_comes_back(
    server: NatsServer, streams: Streams
) -> None:
    """Also where it has not told who became due, for instance since it was not there."""
    schedule(server.url, "set", "--default", "--within", "0s")
    with SchedulerProcess(server.url) as scheduler:
        streams.publish("AlarmStatusChanged", event("ada"))
        eventually(
            lambda: scheduler.metric("alarmdigest_scheduler_hears_service") == 0, what="silence"
        )
        assert scheduler.http("/readyz")[0] == 200  # what it knows of goes out
        with service_on(server) as service:
            eventually(lambda: len(digests(streams)) == 1, what="the digest", timeout=20)
            service.kill()
            # Merged before anybody asks who becomes due.
            streams.publish("AlarmStatusChanged", event("bob"))
            service.start()
            eventually(lambda: len(digests(streams)) == 2, what="the digest of bob", timeout=20)


def test_a_server_that_restarts_loses_nobody(server: NatsServer, streams: Streams) -> None:
    schedule(server.url, "set", "--default", "--within", "2s")
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service"))
        for number in range(50):
            streams.publish("AlarmStatusChanged", event(f"user-{number}"))
        streams.close()
        server.kill()
        server.start()
        again = Streams(server, create=False)
        eventually(lambda: len(digests(again)) == 50, what="all digests", timeout=30)
        assert set(requests_by_user(again).values()) == {1}
        again.close()


def test_very_many_who_are_due_at_once_are_all_told(server: NatsServer, streams: Streams) -> None:
    users = 20_000
    schedule(server.url, "set", "--default", "--within", "0s")
    schedule(server.url, "pause", "--default")
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service"))
        for first in range(0, users, 1000):
            for number in range(first, first + 1000):
                body = event(f"user-{number}")
                streams.js._connection.send(
                    b"PUB AlarmStatusChanged %d\r\n%b\r\n" % (len(body), body)
                )
        eventually(
            lambda: scheduler.metric("alarmdigest_scheduler_waiting") == users,
            what="all of them to wait",
            timeout=60,
        )
        assert requests_by_user(streams) == {}
        schedule(server.url, "resume", "--default")
        eventually(
            lambda: streams.info("ALARM_DIGESTS").messages == users, timeout=60, what="digests"
        )
        assert streams.info("ALARMS").messages == 2 * users
        assert scheduler.metric("alarmdigest_scheduler_waiting") == 0


def test_nonsense_on_the_subject_of_news_is_counted_and_harms_nobody(
    server: NatsServer, streams: Streams
) -> None:
    schedule(server.url, "set", "--default", "--within", "0s")
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service"))
        bodies = [
            *(b"", b"{", b"[]", b'{"UserID":5,"Status":"WARNING","Since":"x"}', b"\xff" * 100),
            b'{"UserID":"","Status":"WARNING","Since":"2026-01-01T00:00:00Z"}',
            b'{"UserID":"ada","Status":"CRITICAL","Since":"2262-01-01T00:00:00Z"}',
        ]
        head = b"NATS/1.0\r\nAlarmdigest-Watch: abc 99999\r\n\r\n"
        for body in bodies:
            streams.js._connection.send(
                b"HPUB AlarmDue %d %d\r\n%b%b\r\n" % (len(head), len(head) + len(body), head, body)
            )
        streams.js._connection.send(b"PUB AlarmDue 2\r\n{}\r\n")
        eventually(
            lambda: scheduler.metric("alarmdigest_scheduler_unreadable_total") == 7,
            what="seven that are none",
        )
        # Of another watch than ours nothing is believed; of ours, what can be.
        streams.publish("AlarmStatusChanged", event("eve"))
        eventually(lambda: len(digests(streams)) == 1, what="the digest of eve")
        with Bus(server.url) as bus:
            heads: list[str] = []

            async def keep(message: Msg) -> None:
                heads.append((message.headers or {})["Alarmdigest-Watch"])

            bus.run(bus.client.subscribe("AlarmDue", cb=keep))
            bus.flush()
            streams.publish("AlarmStatusChanged", event("eve", "b"))
            eventually(lambda: heads, what="news")
            watch = heads[0].split()[0]
            bus.publish("AlarmDue", bodies[-1], {"Alarmdigest-Watch": f"{watch} {10**17}"})
        eventually(lambda: requests_by_user(streams)["ada"] == 1, what="a request in vain")
        assert scheduler.metric("alarmdigest_scheduler_from_the_future_total") == 1
        streams.publish("AlarmStatusChanged", event("bob"))
        eventually(lambda: ("bob", ("a",)) in digests(streams), what="the digest of bob")


def test_entries_that_are_no_schedule_are_counted_and_change_nothing(
    server: NatsServer, streams: Streams
) -> None:
    schedule(server.url, "set", "ada", "--within", "0s")
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service"))
        for number, body in enumerate(
            [b"{}", b"nonsense", b'{"UserID":"ada","schedule":{"cron":"never"}}', b"[" * 300]
        ):
            streams.publish(f"$KV.ALARM_SCHEDULES.user.x{number}", body)
        eventually(
            lambda: scheduler.metric("alarmdigest_scheduler_unreadable_total") == 4, what="four"
        )
        streams.publish("AlarmStatusChanged", event("ada"))
        eventually(lambda: digests(streams) == [("ada", ("a",))], what="the digest")


def test_a_bucket_that_is_deleted_is_made_again(server: NatsServer, streams: Streams) -> None:
    schedule(server.url, "set", "ada", "--within", "0s")
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        eventually(lambda: scheduler.acting, what="it to act")
        streams.js.request("STREAM.DELETE.KV_ALARM_SCHEDULES")
        scheduler.wait_for_log("cannot schedule")
        schedule(server.url, "set", "ada", "--within", "0s")
        streams.publish("AlarmStatusChanged", event("ada"))
        eventually(lambda: digests(streams) == [("ada", ("a",))], what="the digest", timeout=20)


def test_what_is_missing_is_said_and_awaited(server: NatsServer) -> None:
    scheduler = SchedulerProcess(server.url)
    try:
        scheduler.start(ready=False)
        scheduler.wait_for_log("there is no stream ALARMS: start the service")
        assert scheduler.http("/readyz")[0] == 503
        assert scheduler.http("/healthz")[0] == 200
        streams = Streams(server)
        scheduler.wait_for_log(r"\bready\b")
        eventually(lambda: scheduler.http("/readyz")[0] == 200, what="readiness")
        streams.close()
    finally:
        scheduler.end()


def test_without_jetstream_it_says_so() -> None:
    with NatsServer(jetstream=False) as server:
        scheduler = SchedulerProcess(server.url)
        try:
            scheduler.start(ready=False)
            scheduler.wait_for_log("has no JetStream")
        finally:
            scheduler.end()


def test_without_a_server_it_ends() -> None:
    scheduler = SchedulerProcess("nats://127.0.0.1:1", options=["--connect-timeout", "500ms"])
    try:
        scheduler.start(ready=False)
        assert scheduler.wait() == 3
        assert "NATS is not reachable" in scheduler.log
    finally:
        scheduler.end()


@pytest.mark.usefixtures("streams")
def test_the_documents_list_its_metrics(server: NatsServer) -> None:
    with SchedulerProcess(server.url) as scheduler:
        _status, text = scheduler.http("/metrics")
    shown = set(re.findall(r"^# TYPE (alarmdigest_scheduler_\w+) ", text, re.MULTILINE))
    page = (ROOT / "docs/schedules.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(alarmdigest_\w+)` \|", page, re.MULTILINE)) == shown


def test_a_request_whose_ack_was_lost_stands_in_the_stream_once(
    server: NatsServer, streams: Streams
) -> None:
    schedule(server.url, "set", "--default", "--within", "200ms")

    def metric(name: str) -> float:
        return scheduler.metric(f"alarmdigest_scheduler_{name}")

    def lose_the_ack(user: str) -> bool:
        """Whether it was; something else may be under way when the answers stop, and then the
        request goes out later."""
        listings = metric("listings_total")
        streams.publish("AlarmStatusChanged", event(user))
        eventually(lambda: metric("waiting") == 1, what="news")
        proxy.stall("to client")
        with suppress(AssertionError):
            eventually(lambda: user in dict(digests(streams)), timeout=0.6)
        proxy.cut()
        proxy.resume()
        eventually(lambda: user in dict(digests(streams)), what="the digest", timeout=20)
        eventually(lambda: metric("listings_total") > listings, what="it to hear again", timeout=20)
        return metric("duplicates_total") > 0

    with (
        Proxy(server.port) as proxy,
        service_on(server),
        SchedulerProcess(proxy.url) as scheduler,
    ):
        eventually(lambda: metric("listings_total") > 0, what="it to hear")
        assert any(lose_the_ack(f"user-{number}") for number in range(20))
    assert set(requests_by_user(streams).values()) == {1}


def test_requests_that_the_stream_refuses_are_sent_again(
    server: NatsServer, streams: Streams
) -> None:
    schedule(server.url, "set", "--default", "--within", "500ms")
    with service_on(server), SchedulerProcess(server.url) as scheduler:
        eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service"))
        config = streams.info("ALARMS").config
        full = {**config, "max_msgs": 1, "discard": "new"}
        streams.js.request("STREAM.UPDATE.ALARMS", full)
        streams.publish("AlarmStatusChanged", event("ada"))
        scheduler.wait_for_log("requests are not stored; they are sent again")
        assert scheduler.http("/readyz")[0] == 503
        streams.js.request("STREAM.UPDATE.ALARMS", config)
        eventually(lambda: digests(streams) == [("ada", ("a",))], what="the digest")
        eventually(lambda: scheduler.http("/readyz")[0] == 200, what="readiness")
        assert scheduler.metric("alarmdigest_scheduler_failed_total") >= 1
