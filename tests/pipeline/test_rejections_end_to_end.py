"""What the service refuses goes to AlarmRejected as it came, and everything else goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from histories import START, event_body, request_body
from model import Event, Request, Status, read_event, read_request
from support.bus import Bus
from support.core import read_digest
from support.nats_server import NatsServer
from support.service import ServiceProcess

EVENTS, REQUESTS = "AlarmStatusChanged", "SendAlarmDigest"
REASONS = ("json", "schema", "too_long", "status", "changed_at")

GOOD = event_body(Event("u", "a", Status.WARNING, START))
LONG = b"x" * 1025

BAD_EVENTS = [
    *(b"", b"\xff\xfe\0", b'{"broken"', b'{"a":"\xed\xa0\x80"}', b"\r\nPING\r\n", GOOD + b"}"),
    *(b"[]", b"{}", b"7", GOOD.replace(b'"a"', b'""'), GOOD.replace(b'"u"', b"7")),
    GOOD.replace(b'"a"', b'"%b"' % LONG),
    GOOD.replace(b'"u"', b'"%b"' % LONG),
    GOOD.replace(b"WARNING", b"purple"),
    GOOD.replace(b"WARNING", b"warning"),
    GOOD.replace(b"2021-", b"2021/"),
    GOOD.replace(b"2021-", b"1600-"),
    GOOD.replace(b"2021-", b"purple\\r\\n\\u00e9"),
]
BAD_REQUESTS = [b"give me", b'{"UserID":""}', b'{"UserID":["u"]}', b'{"UserID":"%b"}' % LONG]


@pytest.fixture
def bus() -> Iterator[Bus]:
    with NatsServer() as server, ServiceProcess(server.url) as service, Bus(server.url) as bus:
        yield bus
        assert service.stop() == 0


def test_every_refused_message_is_published_as_it_came_and_its_neighbours_are_merged(
    bus: Bus,
) -> None:
    bad = [
        *((EVENTS, body) for body in BAD_EVENTS),
        *((f"{EVENTS}.a-1.~", body) for body in BAD_EVENTS),
        *((REQUESTS, body) for body in BAD_REQUESTS),
        *((f"{REQUESTS}.9", body) for body in BAD_REQUESTS),
    ]
    alarms = [f"{number:0>3}" for number in range(len(bad))]
    for refused, alarm in zip(bad, alarms, strict=True):
        bus.publish(*refused)
        bus.publish(EVENTS, event_body(Event("u", alarm, Status.CRITICAL, START)))
    bus.publish(REQUESTS, request_body(Request("u")))
    [digest] = bus.wait_for_digests(1)
    assert [entry.alarm for entry in read_digest(digest.body).entries] == alarms

    rejected = bus.wait_for_rejected(len(bad))
    assert [(one.headers["Alarmdigest-Subject"], one.body) for one in rejected] == bad
    reasons = [
        read_event(body) if subject.startswith(EVENTS) else read_request(body)
        for subject, body in bad
    ]
    assert set(reasons) == set(REASONS)
    assert [one.headers["Alarmdigest-Reason"] for one in rejected] == reasons
    for one in rejected:
        assert one.headers.keys() == {
            "Alarmdigest-Reason",
            "Alarmdigest-Detail",
            "Alarmdigest-Subject",
            "Nats-Msg-Id",
        }
        detail = one.headers["Alarmdigest-Detail"]
        assert detail
        assert detail.isascii()
        assert detail.isprintable()
    assert len({one.headers["Nats-Msg-Id"] for one in rejected}) == len(bad)


def test_refusals_are_counted_by_reason() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service, Bus(server.url) as bus:
        bus.publish_all((EVENTS, body) for body in BAD_EVENTS)
        bus.wait_for_rejected(len(BAD_EVENTS))
        for reason in REASONS:
            count = sum(read_event(body) == reason for body in BAD_EVENTS)
            metric = f'alarmdigest_rejected_total{{reason="{reason}"}}'
            assert service.metric(metric) == count > 0
        assert service.metric("alarmdigest_alarms") == 0


def test_a_refused_message_too_large_to_go_on_with_its_headers_is_cut_and_says_so(
    bus: Bus,
) -> None:
    most = bus.client.max_payload
    large = bytes(range(256)) * (most // 256)
    bus.publish(EVENTS, large)
    bus.publish(EVENTS, large[:-1024])
    cut, whole = bus.wait_for_rejected(2)
    assert cut.headers["Alarmdigest-Cut"] == "true"
    assert most - 1024 < len(cut.body) < most
    assert large.startswith(cut.body)
    assert "Alarmdigest-Cut" not in whole.headers
    assert whole.body == large[:-1024]
