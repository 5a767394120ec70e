"""Which messages an output stream holds already: ids read out of it, as far as they are needed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bus import Bus
from support.jetstream import asking, delete_streams, frames_with_ids, info_of
from support.nats_server import NatsServer
from support.raw import publish_raw
from support.records import DIGEST, REJECTION, Outgoing, pack_outgoing
from support.scale import cases
from support.wait import eventually

from alarmdigest._ext.frames import ProtocolError
from alarmdigest._ext.stored_ids import StoredIds
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.stream_configs import make_stream_configs
from alarmdigest.nats.streams import ensure_stream
from alarmdigest.pipeline.inflight import stored_ids
from alarmdigest.pipeline.inflight.already_stored import AlreadyStored
from alarmdigest.pipeline.inflight.stored_ids import StoredIdsReader

DIGESTS = make_stream_configs().digests


def id_of(number: int) -> str:
    return f"{number:032x}"


def headers_of(number: int, request: tuple[int, int] | None = None) -> bytes:
    line = b"Alarmdigest-Request: %d %d\r\n" % request if request is not None else b""
    return line + f"Nats-Msg-Id: {id_of(number)}\r\n".encode()


def made(*numbers: int, kind: int = DIGEST) -> bytes:
    """Messages that a replay has made, with request n at time 10 n."""
    return pack_outgoing([Outgoing(kind, headers_of(n, (n, 10 * n)), b"{}") for n in numbers])


def delivery(sequence: int, consumer_seq: int, headers: bytes) -> bytes:
    block = b"NATS/1.0\r\n" + headers + b"\r\n"
    reply = b"$JS.ACK.S.c.1.%d.%d.1700000000000000000.0" % (sequence, consumer_seq)
    return b"HMSG AlarmDigest 5000 %b %d %d\r\n%b\r\n" % (reply, len(block), len(block), block)


def holding(numbers: dict[int, int]) -> StoredIds:
    """One that has read these, each with its sequence."""
    ids = StoredIds()
    wire = b"".join(
        delivery(sequence, position, headers_of(number, (number, 10 * number)))
        for position, (number, sequence) in enumerate(numbers.items(), start=1)
    )
    assert ids.scan(wire, 0, len(wire)) == (len(wire), [])
    return ids


# -- the ids ---------------------------------------------------------------------------------------


def test_what_was_read_is_found_once_with_its_place() -> None:
    ids = holding({1: 5, 2: 6, 3: 9})
    assert (len(ids), ids.sequence, ids.first_sequence) == (3, 9, 5)
    assert ids.newest_id == id_of(3).encode()
    assert ids.take_made(made(3, 1, 4), DIGEST) == ([(0, 9), (1, 5)], [2])
    assert (len(ids), ids.first_sequence) == (1, 6)
    assert ids.take_made(made(3, 2), DIGEST) == ([(1, 6)], [0])
    assert (len(ids), ids.first_sequence, ids.sequence) == (0, 0, 9)


def test_only_messages_of_the_kind_and_among_those_asked_for_are_looked_for() -> None:
    ids = holding({1: 5, 2: 6, 3: 7})
    assert ids.take_made(made(1, kind=REJECTION), DIGEST) == ([], [])
    assert ids.take_made(made(1, 2, 3, 4), DIGEST, [1, 3]) == ([(1, 6)], [3])
    assert len(ids) == 2


def test_the_first_sequence_of_an_id_counts_and_what_has_none_is_passed_over() -> None:
    ids = StoredIds()
    wire = delivery(1, 1, headers_of(1)) + delivery(2, 2, b"Nats-Msg-Id: theirs\r\n")
    wire += delivery(3, 3, headers_of(1)) + delivery(4, 4, b"")
    assert ids.scan(wire, 0, len(wire)) == (len(wire), [])
    assert (len(ids), ids.sequence, ids.first_sequence, ids.newest_id) == (1, 4, 1, b"")


def test_requests_that_passed_are_forgotten_and_those_that_do_not_say_are_kept() -> None:
    ids = StoredIds()
    wire = b"".join(
        delivery(sequence, sequence, headers_of(sequence, request))
        for sequence, request in enumerate([(3, 30), (9, 90), None, (4, 40)], start=1)
    )
    ids.scan(wire, 0, len(wire))
    ids.drop_passed(4)
    assert (len(ids), ids.first_sequence) == (2, 2)


def test_a_stream_that_lost_its_tail_takes_ids_with_it() -> None:
    ids = holding({1: 5, 2: 6, 3: 7})
    ids.truncate(6)
    assert (len(ids), ids.sequence, ids.newest_id) == (2, 6, b"")
    ids.clear(0)
    assert (len(ids), ids.sequence) == (0, 0)


@pytest.mark.parametrize(
    ("mark", "covered"),
    [
        (b"5 50", True),
        (b"9 90", True),
        (b"4 50", False),
        (b"5 49", False),  # the number of an earlier message: the stream has lost its tail since
        (b"5", False),
        (b"5 x", False),
        (b" 5 50", False),
        (b"99999999999999999999 50", False),
        (b"5 99999999999999999999", False),
    ],
)
def test_a_mark_tells_that_what_was_deleted_since_had_been_stored(
    mark: bytes, covered: bool
) -> None:
    ids = StoredIds()
    wire = delivery(7, 1, b"Alarmdigest-Stored-Through: " + mark + b"\r\n" + headers_of(6))
    ids.scan(wire, 0, len(wire))
    found, missing = ids.take_made(made(5), DIGEST)
    assert (found, missing) == ([(0, 0)], []) if covered else ([], [0])


def test_a_delivery_that_is_missing_is_noticed() -> None:
    ids = StoredIds()
    wire = delivery(1, 1, headers_of(1)) + delivery(3, 3, headers_of(3))
    with pytest.raises(ValueError, match="delivery 3 came in place of 2"):
        ids.scan(wire, 0, len(wire))
    assert (ids.sequence, len(ids)) == (1, 1)
    with pytest.raises(ProtocolError):
        ids.scan(b"what?\r\n", 0, 7)


@settings(max_examples=cases(50, 2000), deadline=None)
@given(st.integers(), st.integers(1, 20_000))
def test_what_waits_is_found_however_many_pass_through(seed: int, count: int) -> None:
    chance = random.Random(seed)
    ids, waiting, sequence = StoredIds(), dict[int, int](), 0
    while sequence < count:
        some = range(sequence + 1, min(count, sequence + chance.randint(1, 3000)) + 1)
        wire = b"".join(delivery(n, n, headers_of(n, (n, n))) for n in some)
        ids.scan(wire, 0, len(wire))
        waiting |= {n: n for n in some}
        sequence = some[-1]
        taken = chance.sample(sorted(waiting), chance.randint(0, len(waiting)))
        found, missing = ids.take_made(made(*taken), DIGEST)
        assert (found, missing) == ([(i, n) for i, n in enumerate(taken)], [])
        for n in taken:
            del waiting[n]
        assert len(ids) == len(waiting)
        assert ids.first_sequence == min(waiting, default=0)


def test_memory_follows_what_waits_and_not_what_was_read() -> None:
    ids = StoredIds()
    most = 0
    for first in range(1, 2_000_000, 1000):
        some = range(first, first + 1000)
        wire = b"".join(delivery(n, n, headers_of(n, (n, n))) for n in some)
        ids.scan(wire, 0, len(wire))
        if first > 3000:
            ids.take_made(made(*range(first - 3000, first - 2000)), DIGEST)
        most = max(most, ids.held_bytes)
        if first > 300_000:
            break
    assert most < 2**20


# -- reading a stream ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture
def js(server: NatsServer) -> Iterator[JetStream]:
    with asking(server.url) as asked:
        delete_streams(server, asked)
        ensure_stream(asked, DIGESTS, create=True)
        yield asked


def fill(server: NatsServer, js: JetStream, numbers: range, body: bytes = b"x" * 100) -> None:
    before = info_of(js, DIGESTS.name).last_seq
    ids = [id_of(number) for number in numbers]
    publish_raw(server.url, frames_with_ids("AlarmDigest", ids, body))
    eventually(lambda: info_of(js, DIGESTS.name).last_seq == before + len(ids), timeout=30)


def reader(server: NatsServer, js: JetStream, after: int = 0) -> StoredIdsReader:
    return StoredIdsReader(
        Reconnector([server.url], name="test", short_lived=True),
        DIGESTS.name,
        domain="",
        after=after,
        end=info_of(js, DIGESTS.name).last_seq,
    )


def go_on() -> bool:
    return True


def read_all(one: StoredIdsReader) -> StoredIds:
    while not one.done:
        one.read(go_on)
    return one.ids


def test_everything_behind_a_place_is_read_and_the_consumer_is_deleted(
    server: NatsServer, js: JetStream
) -> None:
    fill(server, js, range(1, 25_001))
    assert len(read_all(reader(server, js))) == 25_000
    ids = read_all(reader(server, js, after=24_990))
    assert ids.take_made(made(24_990, 24_991, 25_000), DIGEST)[0] == [(1, 24_991), (2, 25_000)]
    assert len(read_all(reader(server, js, after=25_000))) == 0
    assert len(read_all(reader(server, js, after=30_000))) == 0
    state = js.request(f"STREAM.INFO.{DIGESTS.name}")["state"]
    eventually(lambda: state["consumer_count"] == 0, what="the end of the consumers")


def test_it_is_read_only_as_far_as_it_is_asked_for(server: NatsServer, js: JetStream) -> None:
    fill(server, js, range(1, 30_001))
    replay = AlreadyStored([reader(server, js), reader(server, js, after=30_000)])
    assert replay.decide(made(2, 1), go_on) == [0, 1]
    read = replay.readers[0].ids.sequence
    assert read < 20_000
    assert replay.position(0, (0, b"")) == (2, b"")
    assert replay.decide(made(3), go_on) == [0]
    assert replay.readers[0].ids.sequence == read
    found = replay.decide(made(29_000, 40_000, 4), go_on)
    assert found is not None
    assert sorted(found) == [0, 2]
    assert replay.readers[0].done
    assert replay.suppressed == [5, 0]
    replay.close()


def test_a_stream_whose_end_was_deleted_is_read_to_what_is_left(
    server: NatsServer, js: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_ids, "SILENCE_S", 0.2)
    fill(server, js, range(1, 11))
    with Bus(server.url) as bus:
        for sequence in (9, 10):
            bus.run(bus.client.jetstream().delete_msg(DIGESTS.name, sequence))
        assert len(_persistently(reader(server, js))) == 8
        bus.run(bus.client.jetstream().purge_stream(DIGESTS.name))
        assert len(_persistently(reader(server, js))) == 0


def _persistently(one: StoredIdsReader) -> StoredIds:
    """As whoever uses it does: again after a lost connection."""
    replay = AlreadyStored([one])
    assert replay.decide(made(99), go_on) == []
    return one.ids


def test_a_connection_that_is_lost_is_no_reason_to_begin_anew(
    server: NatsServer, js: JetStream
) -> None:
    fill(server, js, range(1, 12_001))
    one = reader(server, js)
    one.read(go_on)
    read = one.ids.sequence
    assert 0 < read < 12_000
    one.close()
    assert len(read_all(one)) == 12_000


def test_large_bodies_stay_where_they_are(server: NatsServer, js: JetStream) -> None:
    fill(server, js, range(1, 41), body=b"x" * 1_000_000)
    one = reader(server, js)
    assert len(read_all(one)) == 40
    assert len(one._buffer) == stored_ids.BUFFER_BYTES
