"""A user always goes to the same bucket, and from there to the same worker, on either path."""

from __future__ import annotations

import json

import mmh3
import pytest
from histories import ids
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import unpack
from support.scale import cases
from support.workers import worker_of

from alarmdigest._ext.router import Router
from alarmdigest.wire import buckets, messages


def murmur3_32(data: bytes) -> int:
    """MurmurHash3_x86_32 with seed 0, from Appleby's published algorithm."""
    mask = 0xFFFFFFFF

    def mixed(k: int) -> int:
        k = k * 0xCC9E2D51 & mask
        k = (k << 15 | k >> 17) & mask
        return k * 0x1B873593 & mask

    h = 0
    whole = len(data) & ~3
    for place in range(0, whole, 4):
        h ^= mixed(int.from_bytes(data[place : place + 4], "little"))
        h = (h << 13 | h >> 19) & mask
        h = (h * 5 + 0xE6546B64) & mask
    if data[whole:]:
        h ^= mixed(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & mask
    h = (h ^ h >> 13) * 0xC2B2AE35 & mask
    return h ^ h >> 16


@pytest.mark.parametrize(
    ("text", "hashed"),
    [
        ("", 0x00000000),
        ("test", 0xBA6BD213),
        ("Hello, world!", 0xC0363E43),
        ("The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
def test_the_hash_is_murmur3_as_published(text: str, hashed: int) -> None:
    assert murmur3_32(text.encode()) == hashed
    assert buckets.bucket_of(text) == hashed % 4096


def test_there_are_4096_buckets_for_ever() -> None:
    """A store is ordered by bucket: another number would lose every user in it."""
    assert buckets.BUCKETS == 4096


@settings(max_examples=cases(500, 20_000), deadline=None)
@given(ids())
def test_a_bucket_is_the_hash_of_the_utf8(user: str) -> None:
    assert buckets.bucket_of(user) == murmur3_32(user.encode()) % 4096


def workers_that_got(user: str, workers: int, *, odd: bool) -> list[int]:
    """Which workers hold a message of this user after an event and a request, kind by kind."""
    router = Router(
        workers=workers,
        buckets=buckets.BUCKETS,
        hash32=mmh3.hash,
        skew_ns=0,
        read_or_reject=lambda kind, payload, _subject, _origin: messages.parse_leniently(
            kind, payload
        ),
    )
    name = "uSERid" if odd else "UserID"
    event = {name: user, "AlarmID": "a", "Status": "WARNING", "ChangedAt": "2021-06-07T20:40:15Z"}
    stream = b""
    for sid, fields in ((1, event), (3, {name: user})):
        body = json.dumps(fields).encode()
        stream += b"MSG s %d %d\r\n%b\r\n" % (sid, len(body), body)
    assert router.scan(stream, 0, len(stream), 0) == len(stream)
    assert router.slow_path == (2 if odd else 0)
    taken = [(worker, unpack(router.take(worker))) for worker in range(workers)]
    got = [(worker, record) for worker, records in taken for record in records]
    assert [record.user for _, record in got] == [user.encode()] * 2
    assert [record.bucket for _, record in got] == [buckets.bucket_of(user)] * 2
    return [worker for worker, _ in got]


@settings(max_examples=cases(300, 20_000), deadline=None)
@given(ids(), st.one_of(st.integers(1, 40), st.sampled_from([64, 1000, 1024, 4096, 5000])))
def test_the_compiled_router_chooses_the_worker_that_routing_names(user: str, workers: int) -> None:
    expected = worker_of(user, workers)
    assert 0 <= expected < workers
    assert expected == murmur3_32(user.encode()) % 4096 % workers
    for odd in (False, True):
        assert workers_that_got(user, workers, odd=odd) == [expected, expected]


def test_users_are_spread_over_all_workers() -> None:
    counts = [0] * 12
    for number in range(12_000):
        counts[worker_of(f"user-{number}", 12)] += 1
    assert 800 < min(counts) <= max(counts) < 1200


def test_a_router_needs_a_worker_and_knows_how_many_there_are() -> None:
    def build(workers: int, buckets: int = 4096) -> Router:
        return Router(
            workers=workers,
            buckets=buckets,
            hash32=mmh3.hash,
            skew_ns=0,
            read_or_reject=lambda *_: None,
        )

    with pytest.raises(ValueError, match="at least 1"):
        build(0)
    for number in (0, 65537):
        with pytest.raises(ValueError, match="from 1 to 65536"):
            build(1, number)
    assert build(2).take(1) == b""
    with pytest.raises(IndexError):
        build(2).take(2)


def test_only_workers_for_whom_something_came_get_a_batch_and_each_once() -> None:
    router = Router(
        workers=3, buckets=4096, hash32=mmh3.hash, skew_ns=0, read_or_reject=lambda *_: None
    )
    users = [f"user-{number}" for number in range(20)]
    expected: dict[int, list[bytes]] = {}
    for user in users:
        if (worker := worker_of(user, 3)) != 1:
            body = b'{"UserID":"%b"}' % user.encode()
            frame = b"MSG s 3 %d\r\n%b\r\n" % (len(body), body)
            router.scan(frame, 0, len(frame), 1)
            expected.setdefault(worker, []).append(user.encode())
    assert expected
    router.give_back()  # of what has gathered, nothing
    found = {worker: [one.user for one in unpack(batch)] for worker, batch in router.take_all()}
    assert found == expected
    assert router.take_all() == []
    router.give_back()
    frame = b'MSG s 3 16\r\n{"UserID":"eve"}\r\n'
    router.scan(frame.replace(b"16", b"%d" % len(b'{"UserID":"eve"}')), 0, len(frame), 1)
    assert [one.user for _, batch in router.take_all() for one in unpack(batch)] == [b"eve"]
