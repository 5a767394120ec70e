"""The service as a process of its own: the shortest way through all of it."""

from support.bus import Bus
from support.nats_server import NatsServer
from support.service import ServiceProcess

EVENT = (
    b'{"AlarmID":"a","UserID":"u","Status":"CRITICAL","ChangedAt":"2021-06-07T20:40:15.598765212Z"}'
)


def test_an_alarm_and_a_request_make_a_digest() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service, Bus(server.url) as bus:
        bus.publish("AlarmStatusChanged", EVENT)
        bus.publish("SendAlarmDigest.7", b'{"UserID":"u"}')
        [digest] = bus.wait_for_digests(1)
        assert digest.body == (
            b'{"UserID":"u","ActiveAlarms":[{"AlarmID":"a","Status":"CRITICAL",'
            b'"LatestChangedAt":"2021-06-07T20:40:15.598765212Z"}]}'
        )
        assert digest.headers.keys() == {"Nats-Msg-Id"}
        assert service.http("/readyz") == (200, "ok\n")
        assert service.http("/healthz") == (200, "ok\n")
        assert service.stop() == 0


def test_what_is_refused_goes_to_alarm_rejected() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service, Bus(server.url) as bus:
        bus.publish("AlarmStatusChanged.x", b'{"broken"')
        bus.publish("AlarmStatusChanged", EVENT)
        bus.publish("SendAlarmDigest", b'{"UserID":"u"}')
        [refused] = bus.wait_for_rejected(1)
        assert refused.body == b'{"broken"'
        assert refused.headers["Alarmdigest-Reason"] == "json"
        assert refused.headers["Alarmdigest-Subject"] == "AlarmStatusChanged.x"
        bus.wait_for_digests(1)
        assert service.metric('alarmdigest_rejected_total{reason="json"}') == 1
