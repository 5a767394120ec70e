"""What a pull consumer delivers: its place in the stream, gaps, repetitions, and the arrival."""

from __future__ import annotations

import struct

import mmh3
import pytest
from support.records import EVENT, REQUEST, Routed, unpack

from alarmdigest._ext.frames import HMSG, ProtocolError
from alarmdigest._ext.router import STREAM_SID, DeliveryGap, Router

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
        read_or_reject=lambda *_: None,
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
    with pytest.raises(ProtocolError, match="tells no sequence"):
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


def test_a_jump_before_the_first_delivery_is_one_too_also_in_a_stream_that_was_empty() -> None:
    one = router()
    one.begin_deliveries(0)
    deliver(one, reply(17, 1))
    assert (one.deleted, one.take_gap()) == (16, (1, 16, 16))


def test_what_is_missing_can_be_taken_once() -> None:
    one = router()
    one.begin_deliveries(16)
    assert one.take_gap() is None
    for delivery, sequence in enumerate((17, 20, 21, 25), 1):
        deliver(one, reply(sequence, delivery))
    assert one.take_gap() == (18, 24, 5)
    assert one.take_gap() is None
    assert one.deleted == 5


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
    one.begin_deliveries(999)
    deliver(one, reply(1000, 1))
    one.begin_deliveries(900)
    deliver(one, reply(901, 1))
    assert (one.sequence, one.deleted, len(taken(one))) == (901, 0, 2)


def test_a_status_is_kept_for_the_feed() -> None:
    one = router()
    headers = b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"
    frame = b"HMSG _INBOX.x %d %d %d\r\n%b\r\n" % (STREAM_SID, len(headers), len(headers), headers)
    one.scan(frame, 0, len(frame), 0)
    assert one.take_other() == [(HMSG, headers)]
    assert one.delivered == 0


def test_requests_that_were_read_before_are_not_routed_and_events_keep_their_arrival() -> None:
    one = router()
    one.arrival_ns = T + 100
    one.begin_deliveries(0)
    one.begin_reread(3, T + 10, 0)
    far = BODY.replace(b"2021-06", b"2200-06")
    for sequence, moment in ((1, T), (2, T + 10), (3, T + 11), (4, T + 12)):
        for kind in ((far,), (ASK, b"Ask")):  # the same place twice
            one.begin_deliveries(sequence - 1, one.timestamp_ns)
            deliver(one, reply(sequence, 1, moment), *kind)
    events = [record for record in taken(one) if record.kind == EVENT]
    # The first two arrived when they were stored; the third is newer than what was read, and the
    # fourth came into the stream after it was looked at.
    assert [event.arrival_ns for event in events] == [T, T + 10, T + 101, T + 103]
    assert [event.time_ns for event in events] == [e.arrival_ns + HOUR_NS for e in events]
    assert one.not_answered == 2


def test_a_message_that_was_stored_after_the_look_is_new_whatever_the_clock_says() -> None:
    one = router()
    one.begin_deliveries(0)
    one.begin_reread(3, T, 0)
    deliver(one, reply(4, 1, T - HOUR_NS), ASK, b"Ask")
    assert (one.not_answered, [record.kind for record in taken(one)]) == (0, [REQUEST])


@pytest.mark.parametrize(
    ("stepped_back_ns", "not_answered"), [(0, 1), (4, 1), (5, 3), (HOUR_NS, 3)]
)
def test_a_message_further_behind_an_earlier_one_than_any_was_is_new(
    stepped_back_ns: int, not_answered: int
) -> None:
    one = router()
    one.arrival_ns = T + 100
    one.begin_deliveries(0)
    one.begin_reread(3, T + 10, stepped_back_ns)
    for sequence, moment in ((1, T + 10), (2, T + 5), (3, T + 5)):
        deliver(one, reply(sequence, sequence, moment), ASK, b"Ask")
    assert one.not_answered == not_answered


def test_how_far_times_step_back_is_kept() -> None:
    one = router()
    for number, moment in enumerate((T, T + 9, T + 2, T + 20, T + 18), 1):
        deliver(one, reply(number, number, moment))
    assert one.stepped_back_ns == 7


def test_messages_on_other_subjects_are_no_arrivals() -> None:
    one = router()
    deliver(one, reply(1, 1, T))
    deliver(one, reply(2, 2, T + HOUR_NS), b"{}", b"other")
    deliver(one, reply(3, 3, T + 5))
    assert [event.arrival_ns for event in taken(one)] == [T, T + 5]
    assert one.sequence == 3
