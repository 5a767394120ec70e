"""What a pull consumer delivers: its place in the stream, gaps, repetitions, and the arrival."""

from __future__ import annotations

import struct

import mmh3
import pytest
from support.records import EVENT, REQUEST, Routed, unpack

from alarmdigest._ext.events import STREAM_SID, DeliveryGap, Router
from alarmdigest._ext.frames import HMSG, ProtocolError

HOUR_NS = 3600 * 10**9
T = 1_623_098_415_598_765_212  # 2021-06-07T20:40:15.598765212Z
BODY = b'{"AlarmID":"a","UserID":"u","Status":"WARNING","ChangedAt":"2021-06-07T20:40:15Z"}'
ASK = b'{"UserID":"u"}'


def router() -> Router:
    return Router(
        workers=1,
        buckets=4096,
        hash32=mmh3.hash,
        skew_ns=HOUR_NS,
        read_odd=lambda *_: None,
        event_subject=b"Alarms",
        request_subject=b"Ask",
    )


def reply(seq: int, delivery: int, timestamp_ns: int = T, pending: int = 0) -> bytes:
    return b"$JS.ACK.ALARMS.c.1.%d.%d.%d.%d" % (seq, delivery, timestamp_ns, pending)


def deliver(to: Router, reply: bytes, body: bytes = BODY, subject: bytes = b"Alarms") -> None:
    frame = b"MSG %b %d %b %d\r\n%b\r\n" % (subject, STREAM_SID, reply, len(body), body)
    assert to.scan(frame, 0, len(frame), 0) == len(frame)


def taken(from_: Router) -> list[Routed]:
    return unpack(from_.take(0))


def test_the_reply_tells_the_place() -> None:
    one = router()
    deliver(one, reply(17, 1, T + 5, 3))
    assert (one.sequence, one.timestamp_ns, one.pending, one.delivered) == (17, T + 5, 3, 1)
    [event] = taken(one)
    assert event.arrival_ns == T + 5


def test_newer_servers_write_domain_and_account_before_the_place() -> None:
    one = router()
    deliver(one, b"$JS.ACK.hub.HASH.ALARMS.c.1.17.1.%d.3" % T)
    deliver(one, b"$JS.ACK._.HASH.ALARMS.c.1.18.2.%d.2.random" % (T + 1))
    assert (one.sequence, one.timestamp_ns, one.pending) == (18, T + 1, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        b"$JS.ACK.ALARMS.c.1.17.1.3",
        b"$JS.ACK.ALARMS.c.1.x.1.%d.3" % T,
        b"$JS.ACK.ALARMS.c.1.17.1.99999999999999999999.3",
        b"$JS.ACK.ALARMS.c.1.17.1.9999999999999999999.3",
        b"$JS.ACK",
        b"elsewhere",
        b"$JS.ACK." + b"." * 20,
    ],
)
def test_a_reply_that_tells_no_place_is_an_error_of_the_protocol(wrong: bytes) -> None:
    one = router()
    with pytest.raises(ProtocolError, match="tells no place"):
        deliver(one, wrong)
    assert one.sequence == 0


def test_the_subject_tells_events_from_requests() -> None:
    one = router()
    subjects = (b"Alarms", b"Alarms.a.b", b"Ask", b"Ask.x", b"Alarmsx", b"Ask2.x", b"other")
    for number, subject in enumerate(subjects, 1):
        deliver(one, reply(number, number), ASK if b"Ask" in subject else BODY, subject)
    assert [record.kind for record in taken(one)] == [EVENT, EVENT, REQUEST, REQUEST]
    assert one.foreign == 3


def test_a_request_carries_its_origin() -> None:
    one = router()
    deliver(one, reply(17, 1, T + 5), ASK, b"Ask")
    [request] = taken(one)
    assert request.alarm == struct.pack("<Qq", 17, T + 5)


def test_arrivals_only_grow_though_a_servers_clock_steps_back() -> None:
    one = router()
    for number, moment in enumerate((T, T - 24 * HOUR_NS, T - 1, T + 1, T + 9), 1):
        deliver(one, reply(number, number, moment))
    assert [event.arrival_ns for event in taken(one)] == [T, T + 1, T + 2, T + 3, T + 9]
    assert one.timestamp_ns == T + 9


def test_a_refused_message_counts_as_an_arrival_too() -> None:
    one = router()
    deliver(one, reply(1, 1, T))
    deliver(one, reply(2, 2, T), b"[]")
    deliver(one, reply(3, 3, T))
    assert [event.arrival_ns for event in taken(one)] == [T, T + 2]


def test_a_jump_of_the_stream_is_a_deletion() -> None:
    one = router()
    one.begin_deliveries(16)
    deliver(one, reply(17, 1))
    deliver(one, reply(20, 2))
    assert one.deleted == 2
    assert len(taken(one)) == 2


def test_a_jump_of_a_filtered_consumer_is_none() -> None:
    one = router()
    one.begin_deliveries(10, gaps_are_deletions=False)
    deliver(one, reply(17, 1))
    assert one.deleted == 0


def test_a_jump_of_the_consumer_is_a_loss_on_the_way_and_nothing_behind_it_is_routed() -> None:
    one = router()
    deliver(one, reply(17, 1))
    with pytest.raises(DeliveryGap, match="was lost on its way"):
        deliver(one, reply(19, 3))
    assert one.sequence == 17
    assert len(taken(one)) == 1


def test_a_new_consumer_repeats_and_what_is_known_is_passed_over() -> None:
    one = router()
    deliver(one, reply(17, 1))
    one.begin_deliveries(17)
    deliver(one, reply(16, 1))
    deliver(one, reply(17, 2))
    deliver(one, reply(18, 3))
    assert one.redelivered == 2
    assert (one.sequence, len(taken(one))) == (18, 2)


def test_a_rolled_back_stream_is_read_from_where_it_is() -> None:
    one = router()
    deliver(one, reply(1000, 1))
    one.begin_deliveries(0)
    deliver(one, reply(901, 1))
    assert (one.sequence, one.deleted, len(taken(one))) == (901, 0, 2)


def test_a_status_is_kept_for_the_feed() -> None:
    one = router()
    headers = b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"
    frame = b"HMSG _INBOX.x %d %d %d\r\n%b\r\n" % (STREAM_SID, len(headers), len(headers), headers)
    one.scan(frame, 0, len(frame), 0)
    assert one.take_other() == [(HMSG, headers)]
    assert one.delivered == 0
