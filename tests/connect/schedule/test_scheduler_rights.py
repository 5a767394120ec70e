"""What a scheduler may, and what it says where it may not."""

from __future__ import annotations

import pytest
from support.bridge import Streams
from support.nats_server import NatsServer
from support.paths import ROOT
from support.scheduler import SchedulerProcess, digests, event, schedule
from support.service import ServiceProcess
from support.wait import eventually

pytestmark = pytest.mark.deliver

PERMISSIONS = (ROOT / "deploy/nats-permissions-scheduler.conf").read_text("utf-8")
OF_THE_SERVICE = (ROOT / "deploy/nats-permissions.conf").read_text("utf-8")


def guarded(permissions: str) -> str:
    """Of a server with users s, for scheduler, a, for alarmdigest, and t, who may everything."""
    return f"""
authorization {{ users: [
  {{ user: s, password: s, {permissions} }}
  {{ user: a, password: a, {OF_THE_SERVICE} }}
  {{ user: t, password: t }}
] }}
"""


def url_of(server: NatsServer, user: str) -> str:
    return server.url.replace("//", f"//{user}:{user}@")


def scheduler_as(server: NatsServer, user: str) -> SchedulerProcess:
    process = SchedulerProcess()
    process._environment = process._environment | {"NATS_URL": url_of(server, user)}
    return process


def service_as(server: NatsServer, user: str) -> ServiceProcess:
    process = ServiceProcess(mode="stream")
    process._environment = process._environment | {"NATS_URL": url_of(server, user)}
    return process


def test_the_permissions_as_shipped_suffice() -> None:
    with NatsServer(extra=guarded(PERMISSIONS)) as server:
        streams = Streams(server, url=url_of(server, "t"))
        with service_as(server, "a"), scheduler_as(server, "s") as scheduler:
            eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service"))
            # More entries than are asked for one by one.
            for number in range(300):
                streams.publish(f"$KV.ALARM_SCHEDULES.user.{number}", b'{"UserID":"x"}')
            streams.publish(
                "$KV.ALARM_SCHEDULES.default", b'{"UserID":null,"schedule":{"within":"0s"}}'
            )
            streams.publish("AlarmStatusChanged", event("ada"))
            eventually(lambda: digests(streams) == [("ada", ("a",))], what="the digest")
            eventually(lambda: scheduler.metric("alarmdigest_scheduler_requests_total") == 1)
            assert "ermissions" not in scheduler.log
            assert scheduler.stop() == 0
        streams.close()


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ('      "AlarmDue"\n', "cannot hear who becomes due"),
        ('      "SendAlarmDigest"\n', "requests are not stored"),
        ('      "AlarmDigestQuery.watch"\n', "cannot schedule"),
        ('      "$KV.ALARM_SCHEDULES.>"\n', "cannot schedule"),
    ],
)
def test_what_it_may_not_is_said(without: str, said: str) -> None:
    assert without in PERMISSIONS
    with NatsServer(extra=guarded(PERMISSIONS.replace(without, ""))) as server:
        streams = Streams(server, url=url_of(server, "t"))
        schedule(url_of(server, "t"), "list", code=2)  # a login is no word of a command line
        with service_as(server, "a"):
            scheduler = scheduler_as(server, "s")
            try:
                scheduler.start(ready=False)
                streams.publish("AlarmStatusChanged", event("ada"))
                eventually(lambda: streams.js.stream_info("KV_ALARM_SCHEDULES") is not None)
                streams.publish(
                    "$KV.ALARM_SCHEDULES.default", b'{"UserID":null,"schedule":{"within":"0s"}}'
                )
                scheduler.wait_for_log(said)
                assert scheduler.http("/healthz")[0] == 200
                assert digests(streams) == []
            finally:
                scheduler.end()
        streams.close()
