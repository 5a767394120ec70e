"""What the compiled core does with messages, in parts that callgrind counts one by one.

Run by ``instructions.py``. Everything is prepared before the first part begins. ``ctermid`` of
the C library, which nobody else calls, tells callgrind where one part ends and the next begins.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from functools import partial

import mmh3

from alarmdigest._ext import outgoing
from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest._ext.inflight import ACK_SID, DIGEST, REJECTION, InFlight
from alarmdigest._ext.router import EVENT_SIDS, REQUEST_SIDS, STREAM_SID, Router
from alarmdigest.wire.buckets import BUCKETS

USERS, ALARMS = 100, 25
EVENTS = USERS * ALARMS
NOW_NS = 1_623_098_500_000_000_000
INBOX = b"_INBOX.counted"
ALL = 1 << 30

Part = tuple[str, int, Callable[[], object]]


def user_id(user: int) -> bytes:
    """36 characters, as a UUID has."""
    return b"%08x-dddd-4eee-9fff-%012x" % (user, user)


def events(second: int) -> list[bytes]:
    """One for each alarm, users in turn."""
    return [
        b'{"AlarmID":"%08x-aaaa-4bbb-8ccc-%012x","UserID":"%b",'
        b'"Status":"WARNING","ChangedAt":"2021-06-07T20:40:%02d.598765212Z"}'
        % (alarm, user, user_id(user), second)
        for alarm in range(ALARMS)
        for user in range(USERS)
    ]


def requests() -> list[bytes]:
    return [b'{"UserID":"%b"}' % user_id(user) for user in range(USERS)]


def plain(subject: bytes, sid: int, bodies: list[bytes]) -> bytes:
    """As a plain subscription brings them."""
    return b"".join(b"MSG %b %d %d\r\n%b\r\n" % (subject, sid, len(body), body) for body in bodies)


def of_stream(subject: bytes, first: int, bodies: list[bytes]) -> bytes:
    """As a consumer of the stream delivers them, numbered from ``first`` on."""
    return b"".join(
        b"MSG %b %d $JS.ACK.ALARMS.c.1.%d.%d.%d.0 %d\r\n%b\r\n"
        % (subject, STREAM_SID, number, number, NOW_NS + number, len(body), body)
        for number, body in enumerate(bodies, first)
    )


def refuse(*_args: object) -> None:
    raise AssertionError("none of these needs the slow reader")


class Pipeline:
    """A router, one worker's book, and what the book made last."""

    def __init__(self) -> None:
        self.router = Router(
            workers=1, buckets=BUCKETS, hash32=mmh3.hash, skew_ns=0, read_or_reject=refuse
        )
        self.router.begin_deliveries(0)
        self.book = AlarmBook(
            retention_ns=10**18, split_bytes=1 << 20, secret=bytes(range(16)), stream=b"ALARMS"
        )
        self.made = b""

    def take_in(self, wire: bytes) -> None:
        """Route all of it and merge it."""
        position = 0
        while position < len(wire):
            position = self.router.scan(wire, position, len(wire), NOW_NS)
        batch, position = self.router.take(0), 0
        made: list[bytes] = []
        while position < len(batch):
            digests, position = self.book.merge(batch, position)
            made.append(digests)
        self.made = b"".join(made)

    def write_rows(self) -> None:
        while self.book.take_rows():
            pass


def to_wire(one: Pipeline) -> None:
    """As core mode sends digests."""
    _, digests, *_ = outgoing.Framer().to_wire(
        one.made, b"AlarmDigest", b"AlarmRejected", b"id-", 1 << 20
    )
    assert digests == USERS


def frame(one: Pipeline, in_flight: InFlight) -> None:
    """As stream mode sends them."""
    assert in_flight.add(one.made) == (1, USERS)
    _, messages, *_ = in_flight.frame(b"AlarmDigest", b"AlarmRejected", 1 << 20, USERS, ALL)
    assert messages == USERS


def confirm(in_flight: InFlight, answers: bytes) -> None:
    assert in_flight.scan(answers, 0, len(answers)) == len(answers)
    assert in_flight.digests == USERS


def parts() -> Iterator[Part]:
    """Name, how often it does what it is named after, and the call that does it all."""
    core, stream, in_flight = Pipeline(), Pipeline(), InFlight()
    in_flight.set_inbox(INBOX)
    in_flight.set_stream(DIGEST, b"ALARM_DIGESTS", b"")
    in_flight.set_stream(REJECTION, b"ALARM_REJECTIONS", b"")
    acks = [b'{"stream":"ALARM_DIGESTS", "seq":%d}' % number for number in range(1, USERS + 1)]
    answers = b"".join(
        b"MSG %b.%d %d %d\r\n%b\r\n" % (INBOX, number, ACK_SID, len(ack), ack)
        for number, ack in enumerate(acks, 1)
    )
    event, request = b"AlarmStatusChanged", b"SendAlarmDigest"

    def of_core(subject: bytes, sid: int, bodies: list[bytes]) -> Callable[[], object]:
        return partial(core.take_in, plain(subject, sid, bodies))

    def streamed(subject: bytes, first: int, bodies: list[bytes]) -> Callable[[], object]:
        return partial(stream.take_in, of_stream(subject, first, bodies))

    yield "core: new alarm", EVENTS, of_core(event, EVENT_SIDS[0], events(0))
    yield "core: newer event of a known alarm", EVENTS, of_core(event, EVENT_SIDS[0], events(1))
    yield "row of a changed alarm", EVENTS, core.write_rows
    yield "core: request, digest of 25", USERS, of_core(request, REQUEST_SIDS[0], requests())
    yield "core: digest of 25, framed", USERS, partial(to_wire, core)
    yield "stream: new alarm", EVENTS, streamed(event, 1, events(0))
    yield (
        "stream: newer event of a known alarm",
        EVENTS,
        streamed(event, EVENTS + 1, events(1)),
    )
    yield "stream: request, digest of 25", USERS, streamed(request, 2 * EVENTS + 1, requests())
    yield "stream: digest of 25, framed", USERS, partial(frame, stream, in_flight)
    yield "stream: digest confirmed", USERS, partial(confirm, in_flight, answers)


def main() -> None:
    # Twice, and the first time does not count: then nothing is done for the first time any more.
    for counted in (False, True):
        prepared = list(parts())
        gc.collect()
        gc.disable()
        os.ctermid()
        for name, times, work in prepared:
            work()
            os.ctermid()
            if counted:
                print(times, name, sep="\t")


if __name__ == "__main__":
    main()
