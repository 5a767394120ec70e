"""The router knows fields by those of the message before, and must not take one for another."""

from __future__ import annotations

import itertools
import json
from random import Random

import mmh3
import pytest
from support.records import unpack

from alarmdigest._ext.router import EVENT_SIDS, Router
from alarmdigest.wire.messages import Rejected, parse_leniently

WHEN = "2021-06-07T20:40:15Z"


class Reader:
    """A router with one worker, and how many messages it gave to the slow path."""

    def __init__(self) -> None:
        self.slow = 0
        self._router = Router(
            workers=1, buckets=16, hash32=mmh3.hash, skew_ns=2**62, read_or_reject=self._slowly
        )

    def _slowly(self, kind: int, body: bytes, *_: object) -> tuple[bytes, bytes, int, int] | None:
        self.slow += 1
        try:
            return parse_leniently(kind, body)
        except Rejected:
            return None

    def read(self, body: bytes) -> tuple[bytes, bytes, int] | None:
        """User, alarm and status, or None where it is rejected."""
        frame = b"MSG s %d %d\r\n%b\r\n" % (EVENT_SIDS[0], len(body), body)
        self._router.scan(frame, 0, len(frame), 1)
        records = unpack(self._router.take(0))
        return (records[0].user, records[0].alarm, records[0].status) if records else None


def body(order: tuple[str, ...], user: str, alarm: str, status: str = "CRITICAL") -> bytes:
    values = {"UserID": user, "UserId": user, "AlarmID": alarm, "Status": status, "ChangedAt": WHEN}
    return json.dumps({name: values[name] for name in order}).encode()


ORDERS = [
    *itertools.permutations(("UserID", "AlarmID", "Status", "ChangedAt")),
    *itertools.permutations(("UserId", "AlarmID", "Status", "ChangedAt")),
]


@pytest.mark.parametrize(
    ("user", "alarm"),
    [
        ("ada", "disk"),
        ("1", "1"),  # Python keeps one string for all texts of one such character
        ("é", "é"),
        ("CRITICAL", "CRITICAL"),
        ("AlarmID", "UserID"),
        (WHEN, WHEN),
    ],
)
def test_any_order_of_the_fields_after_any_other(user: str, alarm: str) -> None:
    reader, random = Reader(), Random(1)
    expected = (user.encode(), alarm.encode(), 2)
    for order in random.sample(ORDERS, len(ORDERS)) * 3:
        for _ in range(random.randrange(1, 3)):
            assert reader.read(body(order, user, alarm)) == expected
    assert reader.slow == 0


def test_other_shapes_between_do_not_disturb() -> None:
    reader, usual = Reader(), ("AlarmID", "UserID", "Status", "ChangedAt")
    others = [
        b"{}",
        b"[]",
        b"{",
        b'{"UserID":"u"}',
        b'{"AlarmID":"a","UserID":"u","Status":"WARNING"}',
        b'{"AlarmID":"a","UserID":"u","Status":"WARNING","When":"2021-06-07T20:40:15Z"}',
        b'{"AlarmID":"a","UserID":"u","Status":1,"ChangedAt":"2021-06-07T20:40:15Z"}',
        b'{"AlarmID":1,"UserID":2,"Status":3,"ChangedAt":4}',
    ]
    for other in others:
        assert reader.read(body(usual, "ada", "disk")) == (b"ada", b"disk", 2)
        assert reader.read(other) is None
    assert reader.read(body(usual, "ada", "disk")) == (b"ada", b"disk", 2)


def test_fields_beyond_the_four_and_fields_that_are_repeated() -> None:
    reader = Reader()
    base = b'"UserID":"u","Status":"WARNING","ChangedAt":"2021-06-07T20:40:15Z"'
    for _ in range(3):
        assert reader.read(b'{"AlarmID":"a",%b}' % base) == (b"u", b"a", 1)
        assert reader.read(b'{"AlarmID":"a",%b,"More":1}' % base) == (b"u", b"a", 1)
        assert reader.read(b'{"AlarmID":"a","AlarmID":"b",%b}' % base) == (b"u", b"b", 1)
    assert reader.slow == 0


@pytest.mark.parametrize("sizes", [[1, 900, 1], [900, 1, 900], [3, 2, 1, 1000, 5]])
def test_a_message_shorter_than_the_one_before_is_read_alone(sizes: list[int]) -> None:
    """All payloads are decoded from one object, which nothing of the last one may be left in."""
    reader = Reader()
    for size in sizes:
        sent = body(("AlarmID", "UserID", "Status", "ChangedAt"), "u" * size, "a" * size)
        assert reader.read(sent) == (b"u" * size, b"a" * size, 2)
        assert reader.read(sent[:-1]) is None


def test_a_rejected_payload_reaches_the_slow_path_as_it_came() -> None:
    seen: list[bytes] = []
    router = Router(
        workers=1,
        buckets=16,
        hash32=mmh3.hash,
        skew_ns=0,
        read_or_reject=lambda _kind, body, *_: seen.append(body),
    )
    bodies = [b"{", b'{"UserID":"u"}', b'{"UserID":1,"AlarmID":"a"}', b"[1]"]
    frames = b"".join(b"MSG s %d %d\r\n%b\r\n" % (EVENT_SIDS[0], len(b), b) for b in bodies)
    router.scan(frames, 0, len(frames), 1)
    assert seen == bodies
