"""Many rejected messages cost little more than good ones, and no good one is lost among them."""

from __future__ import annotations

import time
from random import Random

import mmh3
import pytest
from histories import START, event_body, request_body
from model import Event, Request, Status, read_event, read_request
from support.bus import Bus
from support.core import read_digest
from support.nats_server import NatsServer
from support.raw import frames_of, publish_raw
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest._ext.router import EVENT, EVENT_SIDS, REQUEST, REQUEST_SIDS, STREAM_SID, Router
from alarmdigest.pipeline.publish_budget import PUBLISHED_AT_ONCE, SAMPLED_ONE_IN
from alarmdigest.pipeline.rejections import Rejections
from alarmdigest.pipeline.slow_path import SlowPath
from alarmdigest.wire.buckets import BUCKETS
from alarmdigest.wire.messages import REASONS

EVENTS = "AlarmStatusChanged"
GOOD = event_body(Event("user", "alarm", Status.WARNING, START))
BAD = [
    *(
        b"",
        b"{",
        b" \r\n",
        b"{}",
        b"null",
        b"[]",
        b"7",
        b'"{}"',
        b"tru",
        b"}{",
        b"\xff",
        b"\xef\xbb\xbf{}",
    ),
    b"[" * 500,
    GOOD + b"}",
    GOOD.replace(b'"user"', b"7"),
    GOOD.replace(b'"user"', b'""'),
    GOOD.replace(b'"user"', b'"\xff"'),
    GOOD.replace(b'"user"', b'"%b"' % (b"u" * 1025)),
    GOOD.replace(b'"alarm"', b'"%b"' % (b"u" * 1025)).replace(b"WARNING", b"purple"),
    GOOD.replace(b"Status", b"State"),
    GOOD.replace(b"Status", b"sTATUS").replace(b"WARNING", b"purple"),
    GOOD.replace(b"WARNING", b"purple"),
    GOOD.replace(b"WARNING", b"purple").replace(b"UserID", b"UserId"),
    GOOD.replace(b"ChangedAt", b"ChangedAs"),
    GOOD.replace(b'"ChangedAt":"', b'"ChangedAt":"x'),
]
ODD = [
    GOOD.replace(b"AlarmID", b"alarmid"),
    GOOD.replace(b"UserID", b"userId"),
    b" \t\r\n" + GOOD + b"\n ",
    GOOD[:-1] + b',"user\xe2\x84\xaaid":7,"deep":' + b"[" * 200 + b"]" * 200 + b"}",
]


def frame(sid: int, body: bytes, reply: bytes = b"") -> bytes:
    return b"MSG s %d %b%d\r\n%b\r\n" % (sid, reply, len(body), body)


def mutated(body: bytes, random: Random) -> bytes:
    at = random.randrange(len(body))
    return body[:at] + random.choice([b"", b"{", b'"', b"\\", b"7", b"\0"]) + body[at + 1 :]


def test_what_is_only_counted_is_what_would_be_refused_and_for_the_same_reason() -> None:
    random = Random(1)
    ask = request_body(Request("user"))
    events = BAD + ODD + [mutated(GOOD, random) for _ in range(3_000)]
    requests = BAD + ODD + [mutated(ask, random) for _ in range(1_000)]
    for kind, sid, bodies in ((EVENT, EVENT_SIDS[0], events), (REQUEST, REQUEST_SIDS[0], requests)):
        for body in bodies:
            rejections = Rejections()
            rejections._budget._tokens, rejections._budget._filled_at = 0.0, time.monotonic() + 3600
            router = Router(
                workers=1,
                buckets=BUCKETS,
                hash32=mmh3.hash,
                skew_ns=10**18,
                read_or_reject=SlowPath(rejections).read_or_reject,
                count_if_sampled_out=rejections.count_if_sampled_out,
            )
            data = frame(sid, body)
            assert router.scan(data, 0, len(data), START) == len(data)
            said = read_event(body) if kind == EVENT else read_request(body)
            refused = [
                reason for reason, count in rejections.by_reason.items() for _ in range(count)
            ]
            assert refused == ([said] if isinstance(said, str) else []), body
            assert bool(router.take(0)) != bool(refused)
            # One that cannot be told at a glance may have been read before it was left out.
            assert rejections.sampled_out == len(refused)
            assert rejections.take() == b""


def test_after_a_flood_a_single_refusal_is_published_again() -> None:
    rejections = Rejections()
    for _ in range(PUBLISHED_AT_ONCE + 50):
        if not rejections.count_if_sampled_out(EVENT, 0):
            SlowPath(rejections).read_or_reject(EVENT, b"{", b"s")
    rejections.take()
    rejections._budget._filled_at -= 1.0  # a second later
    assert SlowPath(rejections).read_or_reject(EVENT, b"x", b"s") is None
    assert rejections.take().count(b"Alarmdigest-Reason") == 1


def test_beyond_the_rate_one_in_a_hundred_is_published_and_all_are_counted() -> None:
    rejections = Rejections()
    published = 0
    many = PUBLISHED_AT_ONCE + 200 * SAMPLED_ONE_IN
    for _ in range(many):
        if not rejections.count_if_sampled_out(EVENT, REASONS.index("json")):
            assert SlowPath(rejections).read_or_reject(EVENT, b"{", b"s") is None
            published += bool(rejections.take())
    assert PUBLISHED_AT_ONCE + 200 <= published < PUBLISHED_AT_ONCE + 2_000
    assert (
        published + rejections.sampled_out
        == rejections.by_reason["json"]
        == rejections.by_kind[EVENT]
        == many
    )


def test_out_of_a_stream_every_refusal_is_published_however_many() -> None:
    """There nobody is cut off, and what is read again is refused again as it was."""
    rejections = Rejections("ALARMS")
    router = Router(
        workers=1,
        buckets=BUCKETS,
        hash32=mmh3.hash,
        skew_ns=0,
        read_or_reject=SlowPath(rejections).read_or_reject,
        count_if_sampled_out=rejections.count_if_sampled_out,
        event_subject=b"s",
    )
    router.begin_deliveries(0)
    count = PUBLISHED_AT_ONCE * 2
    reply = b"$JS.ACK.ALARMS.c.1.%d.%d.1600000000000000000.5 "
    data = b"".join(frame(STREAM_SID, b"{", reply % (n, n)) for n in range(1, count + 1))
    position = 0
    while position < len(data):
        position = router.scan(data, position, len(data), START)
    assert rejections.take().count(b"Nats-Msg-Id") == rejections.by_reason["json"] == count
    assert rejections.sampled_out == 0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"{", "json"),
        (GOOD.replace(b"WARNING", b"purple"), "status"),
        (b'{"a":[' + b"[" * 500 + b"]}", "json"),
    ],
)
def test_no_good_message_is_lost_in_a_flood_of_bad_ones(bad: bytes, reason: str) -> None:
    flood, one_in = 100_000, 500
    bodies = [
        event_body(Event("u", f"{n:0>6}", Status.WARNING, START + n)) if n % one_in == 0 else bad
        for n in range(flood)
    ]
    refused = sum(body is bad for body in bodies)
    wire = frames_of((EVENTS, body) for body in bodies)
    with NatsServer() as server, ServiceProcess(server.url) as service, Bus(server.url) as bus:
        publish_raw(server.url, wire)
        metric = f'alarmdigest_rejected_total{{reason="{reason}"}}'
        eventually(lambda: service.metric(metric) == refused, timeout=20, what="the flood")
        bus.publish("SendAlarmDigest", request_body(Request("u")))
        [digest] = bus.wait_for_digests(1)
        assert len(read_digest(digest.body).entries) == flood // one_in
        assert service.metric("alarmdigest_listener_connections_lost_total") == 0
        sampled_out = service.metric("alarmdigest_rejected_sampled_out_total")
        assert 0.5 * flood < sampled_out < refused
        left = service.metric('alarmdigest_dropped_total{kind="refusal"}')
        eventually(
            lambda: (
                service.metric('alarmdigest_published_total{kind="rejection"}')
                == refused - sampled_out - left
            ),
            what="the others on AlarmRejected",
        )
        assert {one.body for one in bus.wait_for_rejected(100)} == {bad}
        assert "too many messages are rejected" in service.log
