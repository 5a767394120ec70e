"""What a leader sends: digests one at a time or as an atomic batch, each behind its fence."""

from __future__ import annotations

import re

import pytest
from support.records import DIGEST, REJECTION, Outgoing, pack_outgoing

from alarmdigest._ext.inflight import InFlight

FENCE = b"Expected: 7\r\n"
BATCH = b"Nats-Batch-Id: b\r\nNats-Batch-Sequence: "


def listed(*records: Outgoing) -> InFlight:
    in_flight = InFlight()
    in_flight.set_inbox(b"inbox")
    in_flight.set_stream(0, b"DIGESTS", b"")
    in_flight.add(pack_outgoing(list(records)))
    return in_flight


def digest(number: int, *, user: int | None = None, size: int = 10) -> Outgoing:
    headers = b"Nats-Msg-Id: %032x\r\n" % number
    user = number if user is None else user
    return Outgoing(DIGEST, headers, b"%d" % number + b"x" * size, user, number)


def rejection(number: int) -> Outgoing:
    return Outgoing(REJECTION, b"Reason: json\r\n", b"r%d" % number, 0, number)


def frame(
    in_flight: InFlight, *, most: int = 1000, max_payload: int = 1000, batch_from: int = 3
) -> tuple[bytes, int, int, int, list[int]]:
    wire, digests, rejections, last, unpublishable, _largest, _marked = in_flight.frame_fenced(
        b"D", b"R", max_payload, most, 1 << 20, FENCE, BATCH, batch_from
    )
    return wire, digests, rejections, last, unpublishable


def test_few_digests_go_one_at_a_time_in_order() -> None:
    in_flight = listed(digest(1), digest(2))
    for number in (1, 2):
        wire, digests, rejections, last, _ = frame(in_flight)
        assert (digests, rejections, last) == (1, 0, number)
        assert wire.startswith(b"HPUB D inbox.%d " % number)
        assert FENCE in wire
        assert b"Batch" not in wire
        in_flight.confirm(last, number)
    assert frame(in_flight)[0] == b""


def test_many_digests_go_as_one_batch_which_is_confirmed_as_a_whole() -> None:
    in_flight = listed(*map(digest, range(1, 6)))
    wire, digests, _, last, _ = frame(in_flight)
    assert (digests, last) == (5, 5)
    assert re.findall(rb"Nats-Batch-Sequence: (\d+)", wire) == [b"1", b"2", b"3", b"4", b"5"]
    assert wire.count(FENCE) == 5
    assert wire.count(b"Nats-Batch-Commit: 1\r\n") == 1
    assert wire.index(b"Nats-Batch-Commit") > wire.index(b"Nats-Batch-Sequence: 5")
    # Only the first and the last are answered.
    assert re.findall(rb"HPUB D (inbox\.\d+) ", wire) == [b"inbox.1", b"inbox.5"]
    in_flight.confirm_batch(last, 40)
    assert in_flight.base == in_flight.next
    assert in_flight.position(0) == (40, b"%032x" % 5)


def test_frames_say_their_sizes_truly() -> None:
    in_flight = listed(*map(digest, range(1, 5)))
    rest = frame(in_flight)[0]
    seen = 0
    while rest:
        head = re.match(rb"HPUB \S+ (?:\S+ )?(\d+) (\d+)\r\n", rest)
        assert head is not None
        headers, whole = int(head[1]), int(head[2])
        block = rest[head.end() : head.end() + headers]
        assert block.startswith(b"NATS/1.0\r\n")
        assert block.endswith(b"\r\n\r\n")
        rest = rest[head.end() + whole + 2 :]
        seen += 1
    assert seen == 4


def test_the_digests_of_one_user_are_in_one_batch_in_order() -> None:
    in_flight = listed(
        digest(1, user=9), digest(2, user=8), digest(3, user=9), digest(4, user=9), digest(5)
    )
    wire, digests, _, last, _ = frame(in_flight)
    assert (digests, last) == (5, 5)
    bodies = re.findall(rb"\r\n\r\n(\d)x", wire)
    assert bodies == [b"1", b"3", b"4", b"2", b"5"]
    in_flight.confirm_batch(last, 10)
    assert in_flight.base == in_flight.next


def test_the_digests_of_one_user_go_one_after_the_other_without_a_batch() -> None:
    in_flight = listed(digest(1, user=9), digest(2, user=9))
    for number in (1, 2):
        assert frame(in_flight)[3] == number
        assert frame(in_flight)[3] == 0, "the next one has to wait"
        in_flight.confirm(number, number)
    assert in_flight.base == in_flight.next


def test_a_batch_of_one_user_that_was_not_stored_is_sent_again_in_order() -> None:
    in_flight = listed(*(digest(number, user=9) for number in range(1, 5)))
    assert frame(in_flight)[1] == 4
    in_flight.unsend(0)
    _wire, digests, _, last, _ = frame(in_flight, batch_from=9)
    assert (digests, last) == (1, 1), "and not a later one before it"
    in_flight.unsend(0)
    assert frame(in_flight)[1] == 4


def test_one_that_failed_keeps_back_those_of_its_user() -> None:
    in_flight = listed(*(digest(number, user=9) for number in range(1, 4)), digest(7))
    assert frame(in_flight)[1] == 4
    for number in (1, 2, 3):
        in_flight.on_publish_error(number)
    in_flight.unsend(0)
    assert frame(in_flight)[3] == 4, "that of another user"
    in_flight.confirm(4, 1)
    assert frame(in_flight)[1] == 0
    in_flight.retry_failed()
    wire, digests, _, last, _ = frame(in_flight)
    assert (digests, last) == (3, 3)
    assert re.findall(rb"\r\n\r\n(\d)x", wire) == [b"1", b"2", b"3"]


def test_rejected_messages_go_beside_and_without_a_fence() -> None:
    in_flight = listed(rejection(1), digest(2), rejection(3))
    wire, digests, rejections, last, _ = frame(in_flight)
    assert (digests, rejections, last) == (1, 2, 2)
    assert wire.count(FENCE) == 1


def test_what_is_too_large_stays_and_keeps_nobody_back() -> None:
    in_flight = listed(digest(1), digest(2, size=2000), digest(3), digest(4))
    wire, digests, _, last, unpublishable = frame(in_flight)
    assert (digests, last, unpublishable) == (3, 4, [2])
    assert wire.count(b"Nats-Batch-Commit") == 1
    assert in_flight.failed == 1


@pytest.mark.parametrize("sent", [False, True])
def test_what_others_have_stored_is_let_go(sent: bool) -> None:
    in_flight = listed(digest(1), rejection(2), digest(3), digest(4))
    if sent:
        frame(in_flight)
    assert in_flight.confirm_through(3) == (2, 1)
    assert in_flight.base == 4
    in_flight.unsend(0)
    assert frame(in_flight)[3] == 4


def test_what_the_word_covers_is_not_listed_at_all() -> None:
    in_flight = InFlight()
    in_flight.set_inbox(b"inbox")
    in_flight.add(pack_outgoing([digest(1), rejection(2), digest(3)]), 2)
    assert (in_flight.base, in_flight.next) == (3, 4)
    assert frame(in_flight)[3] == 3
