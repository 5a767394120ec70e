"""Which messages are in their stream: PubAcks as JetStream writes them, and whatever else comes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import DIGEST, REFUSAL, Outgoing, pack_outgoing
from support.scale import cases

from alarmdigest._ext.acks import ACK_SID, AckWindow
from alarmdigest._ext.frames import HMSG, MSG, PONG, ProtocolError

INBOX = b"_INBOX.abc"
STREAMS = {DIGEST: b"ALARM_DIGESTS", REFUSAL: b"ALARM_REJECTED"}


def id_of(number: int) -> str:
    return f"{number:032x}"


def record(kind: int = DIGEST, number: int = 0) -> Outgoing:
    return Outgoing(kind, f"Nats-Msg-Id: {id_of(number)}\r\n".encode(), b"{}")


def window(*kinds: int) -> AckWindow:
    """One that waits for a message of each kind, numbered from 0."""
    made = AckWindow(STREAMS[DIGEST], STREAMS[REFUSAL])
    made.set_inbox(INBOX)
    batch = pack_outgoing([record(kind, number) for number, kind in enumerate(kinds)])
    assert made.enter(batch) == (0, len(kinds))
    return made


def answer(number: int, text: bytes, *, sid: int = ACK_SID, inbox: bytes = INBOX) -> bytes:
    return b"MSG %b.%d %d %d\r\n%b\r\n" % (inbox, number, sid, len(text), text)


def ack(number: int, seq: int, kind: int = DIGEST) -> bytes:
    return answer(number, b'{"stream":"%b", "seq":%d}' % (STREAMS[kind], seq))


def scan(acks: AckWindow, wire: bytes) -> list[tuple[int, int, bytes, bytes]]:
    assert acks.scan(wire, 0, len(wire)) == len(wire)
    return acks.take_other()


def test_a_puback_confirms_its_message_and_tells_the_place() -> None:
    acks = window(DIGEST, REFUSAL)
    assert scan(acks, ack(0, 17) + ack(1, 9, REFUSAL)) == []
    assert (acks.base, acks.next) == (2, 2)
    assert (acks.digests, acks.refusals) == (1, 1)
    assert (acks.get_last_seq(DIGEST), acks.get_last_seq(REFUSAL)) == (17, 9)


def test_the_base_waits_for_the_first_that_is_not_confirmed() -> None:
    acks = window(DIGEST, DIGEST, DIGEST)
    scan(acks, ack(2, 19) + ack(1, 18))
    assert (acks.base, acks.get_last_seq(DIGEST)) == (0, 0)
    scan(acks, ack(0, 17))
    assert (acks.base, acks.get_last_seq(DIGEST)) == (3, 19)


@pytest.mark.parametrize(
    "wire",
    [
        ack(0, 5, REFUSAL),  # of the other stream
        answer(0, b'{"stream":"ALARM_DIGESTS2", "seq":5}'),
        answer(0, b'{"stream":"ALARM_DIGESTS", "seq":0}'),
        answer(0, b'{"stream":"ALARM_DIGESTS", "seq":-5}'),
        answer(0, b'{"stream":"ALARM_DIGESTS", "seq":5,"duplicate": true}'),
        answer(0, b'{"error":{"code":400,"err_code":10054,"description":"x"}}'),
        answer(0, b'{"stream":"ALARM_DIGESTS", "seq":'),
        answer(0, b""),
        answer(0, b"nonsense"),
    ],
)
def test_what_is_no_plain_puback_is_left_to_others(wire: bytes) -> None:
    acks = window(DIGEST)
    [(kind, number, _headers, _text)] = scan(acks, wire)
    assert (kind, number) == (MSG, 0)
    assert (acks.base, acks.digests) == (0, 0)


@pytest.mark.parametrize("number", [1, 2**62, 10**17])
def test_an_answer_to_no_question_of_ours_confirms_nothing(number: int) -> None:
    acks = window(DIGEST)
    scan(acks, ack(number, 5))
    assert acks.base == 0
    assert acks.kind_of(number) == -1


def test_answers_on_another_inbox_or_subscription_confirm_nothing() -> None:
    acks = window(DIGEST)
    text = b'{"stream":"ALARM_DIGESTS", "seq":5}'
    found = scan(acks, answer(0, text, sid=2) + answer(0, text, inbox=b"_INBOX.abd"))
    assert [number for _kind, number, _headers, _text in found] == [-1, -1]
    assert acks.base == 0


def test_a_second_puback_of_a_message_counts_once() -> None:
    acks = window(DIGEST, DIGEST)
    scan(acks, ack(0, 5) + ack(0, 7))
    assert (acks.digests, acks.base, acks.get_last_seq(DIGEST)) == (1, 1, 5)


def test_statuses_and_other_frames_are_kept_with_what_they_say() -> None:
    acks = window(DIGEST)
    headers = b"NATS/1.0 503\r\n\r\n"
    status = b"HMSG _INBOX.abc.0 %d %d %d\r\n%b\r\n" % (
        ACK_SID,
        len(headers),
        len(headers),
        headers,
    )
    assert scan(acks, status + b"PONG\r\n") == [(HMSG, 0, headers, b""), (PONG, -1, b"", b"")]


def test_half_a_frame_waits_and_no_frame_is_an_error() -> None:
    acks = window(DIGEST)
    wire = ack(0, 5)
    assert acks.scan(wire, 0, len(wire) - 1) == 0
    assert acks.base == 0
    with pytest.raises(ProtocolError):
        acks.scan(b"what?\r\n", 0, 7)


def test_known_ids_are_confirmed_without_telling_a_place() -> None:
    acks = AckWindow(STREAMS[DIGEST], STREAMS[REFUSAL])
    batch = pack_outgoing([record(DIGEST, number) for number in range(3)])
    first, _count = acks.enter(batch)
    known = {id_of(0): 40, id_of(1): 41, id_of(9): 42}
    assert acks.recognise(batch, first, known, False) == 2
    assert known == {id_of(9): 42}
    assert (acks.base, acks.get_last_seq(DIGEST)) == (2, 0)


def test_what_we_sent_ourselves_tells_its_place_when_it_is_found() -> None:
    acks = AckWindow(STREAMS[DIGEST], STREAMS[REFUSAL])
    batch = pack_outgoing([record(DIGEST, 7)])
    first, _count = acks.enter(batch)
    assert acks.recognise(batch, first, {id_of(7): 40}, True) == 1
    assert acks.get_last_seq(DIGEST) == 40


def test_only_what_is_not_confirmed_is_framed_and_asks_for_its_answer() -> None:
    acks = window(DIGEST, REFUSAL, DIGEST)
    scan(acks, ack(0, 5))
    batch = pack_outgoing([record(DIGEST, 0), record(REFUSAL, 1), record(DIGEST, 2)])
    wire, messages, largest, left_out = acks.to_wire(batch, 0, b"out", b"bad", 1024)
    assert (messages, left_out) == (2, [])
    assert largest == len(b"NATS/1.0\r\nNats-Msg-Id: %032x\r\n\r\n{}" % 2)
    assert wire.startswith(b"HPUB bad _INBOX.abc.1 ")
    assert b"HPUB out _INBOX.abc.2 " in wire
    assert wire.count(b"HPUB") == 2


@settings(max_examples=cases(200, 5000))
@given(st.data())
def test_whatever_the_order_of_answers_all_are_counted_once(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([DIGEST, REFUSAL]), min_size=1, max_size=40))
    acks = window(*kinds)
    order = data.draw(st.permutations(range(len(kinds))))
    wire = b"".join(ack(number, number + 2, kinds[number]) for number in order)
    position = 0
    for cut in [*sorted(data.draw(st.sets(st.integers(0, len(wire))))), len(wire)]:
        position = acks.scan(wire, position, cut)
    assert acks.take_other() == []
    assert (acks.base, acks.next) == (len(kinds), len(kinds))
    assert (acks.digests, acks.refusals) == (kinds.count(DIGEST), kinds.count(REFUSAL))


def test_memory_stays_small_however_many_pass_through() -> None:
    acks = AckWindow(STREAMS[DIGEST], STREAMS[REFUSAL])
    acks.set_inbox(INBOX)
    batch = pack_outgoing([record() for _ in range(1000)])
    for _round in range(300):
        first, count = acks.enter(batch)
        scan(acks, b"".join(ack(number, number + 2) for number in range(first, first + count)))
    assert acks.base == acks.next == 300_000
    assert acks.get_last_seq(DIGEST) == 300_001
