"""Messages under way to their streams: which may be sent, and what confirms them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import DIGEST, REJECTION, Outgoing, pack_outgoing
from support.scale import cases

from alarmdigest._ext.frames import HMSG, MSG, PONG, ProtocolError
from alarmdigest._ext.inflight import ACK_SID, InFlight

INBOX = b"_INBOX.abc"
STREAMS = {DIGEST: b"ALARM_DIGESTS", REJECTION: b"ALARM_REJECTED"}
ALL = 1 << 30


def id_of(number: int) -> str:
    return f"{number:032x}"


def record(kind: int = DIGEST, number: int = 0, user: int | None = None) -> Outgoing:
    """Of a user of its own, unless one is named."""
    headers = f"Nats-Msg-Id: {id_of(number)}\r\n".encode()
    return Outgoing(kind, headers, b"{}", number if user is None else user)


def empty(domain: bytes = b"") -> InFlight:
    made = InFlight()
    made.set_inbox(INBOX)
    for kind, name in STREAMS.items():
        made.set_stream(kind, name, domain)
    return made


def holding(*records: Outgoing, domain: bytes = b"") -> InFlight:
    """These, numbered from 1."""
    made = empty(domain)
    assert made.add(pack_outgoing(list(records))) == (1, len(records))
    return made


def sent(*kinds: int, domain: bytes = b"") -> InFlight:
    """A message of each kind, of different users, numbered from 1 and sent."""
    records = [record(kind, number) for number, kind in enumerate(kinds, start=1)]
    made = holding(*records, domain=domain)
    assert send(made) == list(range(1, len(kinds) + 1))
    return made


def send(messages: InFlight, most: int = ALL, max_payload: int = 1024) -> list[int]:
    """Send what may be sent; their numbers in the order in which they go out."""
    wire, count, *_ = messages.frame(b"out", b"bad", max_payload, most, ALL)
    lines = [line for line in wire.split(b"\r\n") if line.startswith(b"HPUB ")]
    assert len(lines) == count
    return [int(line.split()[2].rpartition(b".")[2]) for line in lines]


def answer(number: int, text: bytes, *, sid: int = ACK_SID, inbox: bytes = INBOX) -> bytes:
    return b"MSG %b.%d %d %d\r\n%b\r\n" % (inbox, number, sid, len(text), text)


def ack(number: int, seq: int, kind: int = DIGEST) -> bytes:
    return answer(number, b'{"stream":"%b", "seq":%d}' % (STREAMS[kind], seq))


def scan(messages: InFlight, wire: bytes) -> list[tuple[int, int, bytes, bytes]]:
    assert messages.scan(wire, 0, len(wire)) == len(wire)
    return messages.take_other()


# -- confirmations ---------------------------------------------------------------------------------


def test_a_puback_confirms_its_message_and_tells_the_place() -> None:
    messages = sent(DIGEST, REJECTION)
    assert scan(messages, ack(1, 17) + ack(2, 9, REJECTION)) == []
    assert (messages.base, messages.next) == (3, 3)
    assert (messages.digests, messages.rejections, messages.under_way) == (1, 1, 0)
    assert messages.position(DIGEST) == (17, id_of(1).encode())
    assert messages.position(REJECTION) == (9, id_of(2).encode())


def test_the_base_waits_for_the_first_that_is_not_confirmed() -> None:
    messages = sent(DIGEST, DIGEST, DIGEST)
    scan(messages, ack(3, 19) + ack(2, 18))
    assert (messages.base, messages.position(DIGEST)[0]) == (1, 19)
    scan(messages, ack(1, 17))
    assert (messages.base, messages.position(DIGEST)) == (4, (19, id_of(3).encode()))


@pytest.mark.parametrize(
    "text",
    [
        b'{"stream":"ALARM_DIGESTS","domain":"hub","seq":5}',
        b'{"stream":"ALARM_DIGESTS", "domain":"hub", "seq":5}',
    ],
)
def test_in_a_domain_only_its_own_answers_confirm(text: bytes) -> None:
    messages = sent(DIGEST, domain=b"hub")
    for other in (b'"domain":"leaf"', b'"domain":"hub2"'):
        assert len(scan(messages, answer(1, text.replace(b'"domain":"hub"', other)))) == 1
    assert len(scan(messages, ack(1, 5))) == 1
    assert messages.base == 1
    assert scan(messages, answer(1, text)) == []
    assert messages.base == 2


@pytest.mark.parametrize(
    "wire",
    [
        ack(1, 5, REJECTION),  # of the other stream
        answer(1, b'{"stream":"ALARM_DIGESTS","domain":"hub","seq":5}'),
        answer(1, b'{"stream":"ALARM_DIGESTS2", "seq":5}'),
        answer(1, b'{"stream":"ALARM_DIGESTS", "seq":0}'),
        answer(1, b'{"stream":"ALARM_DIGESTS", "seq":-5}'),
        answer(1, b'{"stream":"ALARM_DIGESTS", "seq":5,"duplicate": true}'),
        answer(1, b'{"error":{"code":400,"err_code":10054,"description":"x"}}'),
        answer(1, b'{"stream":"ALARM_DIGESTS", "seq":'),
        answer(1, b""),
        answer(1, b"nonsense"),
    ],
)
def test_what_is_no_plain_puback_is_left_to_others(wire: bytes) -> None:
    messages = sent(DIGEST)
    [(kind, number, _headers, _text)] = scan(messages, wire)
    assert (kind, number) == (MSG, 1)
    assert (messages.base, messages.digests) == (1, 0)


@pytest.mark.parametrize(
    "wire",
    [
        answer(7, b'{"stream":"ALARM_DIGESTS", "seq":5}'),
        answer(0, b'{"stream":"ALARM_DIGESTS", "seq":5}'),
        answer(1, b'{"stream":"ALARM_DIGESTS", "seq":5}', sid=2),
        answer(1, b'{"stream":"ALARM_DIGESTS", "seq":5}', inbox=b"_INBOX.abcd"),
    ],
)
def test_an_answer_to_nothing_of_ours_confirms_nothing(wire: bytes) -> None:
    messages = sent(DIGEST)
    scan(messages, wire)
    assert messages.base == 1


def test_while_a_batch_is_under_way_no_plain_answer_confirms_a_digest() -> None:
    """Only the commit of the batch does: Python reads it."""
    messages = sent(DIGEST, REJECTION)
    messages.atomic_batch_under_way = True
    [(_kind, number, _headers, text)] = scan(messages, ack(1, 17) + ack(2, 9, REJECTION))
    assert (number, text) == (1, b'{"stream":"%b", "seq":17}' % STREAMS[DIGEST])
    assert (messages.digests, messages.rejections) == (0, 1)
    messages.atomic_batch_under_way = False
    assert scan(messages, ack(1, 17)) == []
    assert messages.digests == 1


def test_what_was_not_sent_is_not_confirmed_by_a_plain_answer() -> None:
    messages = holding(record(number=1))
    assert len(scan(messages, ack(1, 5))) == 1
    assert messages.base == 1


def test_other_frames_come_out_in_order_with_their_text() -> None:
    messages = sent(DIGEST)
    status = b"NATS/1.0 503\r\n\r\n"
    wire = b"PONG\r\nHMSG %b.1 1 %d %d\r\n%b\r\n" % (INBOX, len(status), len(status), status)
    assert scan(messages, wire) == [(PONG, -1, b"", b""), (HMSG, 1, status, b"")]


def test_half_a_frame_waits_and_no_frame_is_an_error() -> None:
    messages = sent(DIGEST)
    wire = ack(1, 5)
    assert messages.scan(wire, 0, len(wire) - 1) == 0
    assert messages.base == 1
    with pytest.raises(ProtocolError):
        messages.scan(b"what?\r\n", 0, 7)


def test_what_a_replay_finds_is_confirmed_without_telling_a_place() -> None:
    messages = holding(*[record(number=number) for number in range(3)])
    messages.confirm(1)
    messages.confirm(2, 40)
    assert (messages.base, messages.position(DIGEST)[0]) == (3, 40)
    assert send(messages) == [3]


def test_a_second_answer_is_noticed_and_one_to_a_message_sent_twice_is_none() -> None:
    messages = sent(DIGEST, DIGEST)
    scan(messages, ack(1, 5))
    assert messages.second_answers == 0
    messages.count_answer(1)
    assert messages.second_answers == 1
    messages.unsend(DIGEST)
    assert send(messages) == [2]
    messages.count_answer(2)
    messages.count_answer(2)
    assert messages.second_answers == 1


def test_what_later_messages_of_its_stream_have_overtaken_is_told() -> None:
    messages = sent(DIGEST, DIGEST, REJECTION, DIGEST)
    assert messages.first_under_way() == (1, 0)
    scan(messages, ack(2, 5))
    assert messages.first_under_way() == (1, 1)
    scan(messages, ack(4, 6))
    assert messages.first_under_way() == (1, 1), "still the same one"
    scan(messages, ack(1, 7))
    assert messages.first_under_way() == (3, 0), "a rejected message, and its stream is another one"
    scan(messages, ack(3, 1, REJECTION))
    assert messages.first_under_way() == (0, 0)


def test_what_is_sent_again_is_not_overtaken_by_what_was_sent_before() -> None:
    messages = sent(DIGEST, DIGEST)
    scan(messages, ack(2, 5))
    messages.unsend(DIGEST)
    assert messages.first_under_way() == (0, 0), "it is not under way"
    assert send(messages) == [1]
    assert messages.first_under_way() == (3, 0)


def test_a_late_answer_to_the_first_of_two_sendings_overtakes_nothing() -> None:
    messages = sent(DIGEST, DIGEST, DIGEST)
    messages.unsend(DIGEST)
    assert send(messages) == [1, 2, 3]
    scan(messages, ack(3, 7))
    assert messages.first_under_way() == (4, 0)


# -- the order of one user's digests ---------------------------------------------------------------


def test_a_digest_waits_for_the_one_before_of_the_same_user() -> None:
    messages = holding(record(number=1, user=7), record(number=2, user=8), record(number=3, user=7))
    assert send(messages) == [1, 2]
    assert send(messages) == []
    scan(messages, ack(2, 5))
    assert send(messages) == []
    scan(messages, ack(1, 6))
    assert send(messages) == [3]


def test_rejected_messages_wait_for_nobody() -> None:
    messages = holding(record(REJECTION, 1, user=7), record(REJECTION, 2, user=7), record(number=3))
    assert send(messages) == [1, 2, 3]


def test_users_that_share_a_gate_do_not_wait_for_each_other() -> None:
    """The gate is told by the lower bits."""
    gates = 1 << 18
    messages = holding(*[record(number=n, user=5 + n % 2 * gates) for n in range(1, 5)])
    assert send(messages) == [1, 2]
    scan(messages, ack(2, 5))
    assert send(messages) == [4]
    scan(messages, ack(1, 6))
    assert send(messages) == [3]


def test_what_was_refused_holds_up_its_user_only_until_it_is_tried_again() -> None:
    messages = holding(record(number=1, user=7), record(number=2, user=7), record(number=3, user=9))
    assert send(messages) == [1, 3]
    assert messages.on_publish_error(1)
    assert not messages.on_publish_error(1)
    assert (messages.failed, messages.under_way) == (1, 1)
    scan(messages, ack(3, 5))
    assert send(messages) == []
    messages.retry_failed()
    assert send(messages) == [1]
    scan(messages, ack(1, 6))
    assert send(messages) == [2]
    assert messages.resent == 1


def test_after_a_lost_connection_the_first_of_each_user_goes_first() -> None:
    messages = holding(*[record(number=n, user=n % 2) for n in range(1, 7)])
    assert send(messages) == [1, 2]
    scan(messages, ack(1, 5))
    assert send(messages) == [3]
    messages.unsend(DIGEST)
    assert messages.under_way == 0
    assert send(messages) == [2, 3]
    scan(messages, ack(2, 6) + ack(3, 7))
    assert send(messages) == [4, 5]


def test_one_that_turns_out_to_be_stored_lets_nobody_overtake_the_one_before_it() -> None:
    messages = holding(*[record(number=n, user=7) for n in range(1, 5)])
    assert send(messages) == [1]
    messages.confirm(2, 9)
    assert send(messages) == []
    messages.confirm(1, 5)
    assert send(messages) == [3]
    messages.confirm(4, 10)
    messages.confirm(3, 11)
    assert messages.base == 5


@settings(max_examples=cases(300, 10_000), deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers())
def test_whatever_happens_each_user_has_one_under_way_and_all_arrive_in_order(
    users: list[int], seed: int
) -> None:
    """A stream that takes some, refuses some, and loses connections: what it holds in the end."""
    chance = random.Random(seed)
    messages, waiting = empty(), list(enumerate(users, start=1))
    stored: list[int] = []
    under_way: set[int] = set()

    def store(number: int) -> bytes:
        if number not in stored:
            stored.append(number)
        return ack(number, stored.index(number) + 1)

    while waiting or messages.base < messages.next:
        step = chance.choice(["add", "send", "store", "refuse", "lose", "retry"])
        if step == "add" and waiting:
            some = [waiting.pop(0) for _ in range(min(len(waiting), 3))]
            messages.add(pack_outgoing([record(number=n, user=u) for n, u in some]))
        elif step == "send":
            for number in send(messages, chance.randint(1, 5)):
                assert not any(users[other - 1] == users[number - 1] for other in under_way)
                under_way.add(number)
        elif step in ("store", "refuse") and under_way:
            number = chance.choice(sorted(under_way))
            under_way.remove(number)
            if step == "store":
                scan(messages, store(number))
            else:
                messages.on_publish_error(number)
        elif step == "lose":
            for number in sorted(under_way):
                if chance.random() < 0.5:
                    store(number)
            under_way.clear()
            if chance.random() < 0.5:  # a look-up finds what is there
                for number in stored:
                    messages.confirm(number, stored.index(number) + 1)
            messages.unsend(DIGEST)
        elif step == "retry":
            messages.retry_failed()
    for user in range(5):
        of_user = [number for number in stored if users[number - 1] == user]
        assert of_user == [n for n, one in enumerate(users, start=1) if one == user]


# -- sending ---------------------------------------------------------------------------------------


def test_only_what_may_be_sent_is_framed_and_asks_for_its_answer() -> None:
    messages = holding(record(number=1), record(REJECTION, 2), record(number=3))
    messages.confirm(1)
    wire, count, unpublishable, largest, marked = messages.frame(b"out", b"bad", 1024, ALL, ALL)
    assert (count, unpublishable, marked) == (2, [], False)
    assert largest == len(b"NATS/1.0\r\nNats-Msg-Id: %032x\r\n\r\n{}" % 3)
    assert wire.startswith(b"HPUB bad _INBOX.abc.2 ")
    assert b"HPUB out _INBOX.abc.3 " in wire
    assert wire.count(b"HPUB") == 2


def test_at_most_so_many_are_sent_and_the_rest_later() -> None:
    messages = holding(*[record(number=number) for number in range(1, 6)])
    assert send(messages, most=2) == [1, 2]
    assert messages.sendable
    assert send(messages) == [3, 4, 5]
    assert not messages.sendable


def test_the_mark_goes_with_the_first_digest() -> None:
    messages = holding(record(REJECTION, 1), record(number=2), record(number=3))
    mark = b"Alarmdigest-Stored-Through: 5 77\r\n"
    wire, *_, marked = messages.frame(b"out", b"bad", 1024, 1, ALL, mark)
    assert (wire.count(mark), marked) == (0, False)
    wire, *_, marked = messages.frame(b"out", b"bad", 1024, ALL, ALL, mark)
    first, second = wire.split(b"HPUB ")[1:]
    assert (mark in first, mark in second, marked) == (True, False, True)
    head, sizes = first.split(b"\r\n")[0], first.split(b"\r\n")[0].split()[-2:]
    assert int(sizes[1]) - int(sizes[0]) == 2, head


def test_a_digest_that_is_too_large_waits_and_holds_up_no_other_user() -> None:
    large = record(number=1, user=7)._replace(body=b"x" * 2000)
    messages = holding(large, record(number=2, user=7), record(number=3, user=8))
    _wire, count, unpublishable, largest, _ = messages.frame(b"out", b"bad", 1024, ALL, ALL)
    assert (count, unpublishable, messages.failed) == (1, [1], 1)
    assert largest > 2000
    messages.retry_failed()
    assert send(messages, max_payload=4096) == [1]


def test_unsent_messages_lie_behind_the_sequence_known_when_they_went_out() -> None:
    messages = holding(*[record(number=number) for number in range(1, 5)])
    messages.set_position(DIGEST, 10)
    assert messages.floor(DIGEST) == -1
    assert send(messages, most=2) == [1, 2]
    scan(messages, ack(1, 12))
    assert send(messages) == [3, 4]
    assert messages.floor(DIGEST) == 10
    scan(messages, ack(2, 13))
    assert messages.floor(DIGEST) == 12
    messages.lower_floors(DIGEST, 5)
    assert messages.floor(DIGEST) == 5
    assert messages.floor(REJECTION) == -1


def test_what_was_sent_once_is_told() -> None:
    messages = holding(*[record(number=number, user=number // 3) for number in range(1, 5)])
    assert messages.all_sent_below == 1
    assert send(messages) == [1, 3]
    assert messages.all_sent_below == 2
    scan(messages, ack(1, 5))
    assert send(messages) == [2]
    assert messages.all_sent_below == 4


@settings(max_examples=cases(200, 5000))
@given(st.data())
def test_whatever_the_order_of_answers_all_are_counted_once(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([DIGEST, REJECTION]), min_size=1, max_size=40))
    messages = sent(*kinds)
    order = data.draw(st.permutations(range(len(kinds))))
    wire = b"".join(ack(number + 1, number + 2, kinds[number]) for number in order)
    position = 0
    for cut in [*sorted(data.draw(st.sets(st.integers(0, len(wire))))), len(wire)]:
        position = messages.scan(wire, position, cut)
    assert messages.take_other() == []
    assert messages.base == messages.next == len(kinds) + 1
    assert (messages.digests, messages.rejections) == (kinds.count(DIGEST), kinds.count(REJECTION))


def test_memory_stays_small_however_many_pass_through() -> None:
    messages = empty()
    batch = pack_outgoing([record(number=number) for number in range(1000)])
    for _round in range(300):
        first, count = messages.add(batch)
        send(messages)
        scan(messages, b"".join(ack(number, number) for number in range(first, first + count)))
    assert messages.base == messages.next == 300_001
    assert messages.position(DIGEST)[0] == 300_000
