"""Digests are counted, and their ids summed up, by when their requests arrived: whatever the order
in which workers make them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import DIGEST, REJECTION, Outgoing, pack_outgoing
from support.scale import cases

from alarmdigest._ext.digest_sums import DigestSums

MODULUS = 2**128
ids = st.one_of(st.integers(0, MODULUS - 1), st.sampled_from([0, MODULUS - 1, 2**64 - 1, 2**64]))
digests = st.lists(st.tuples(st.integers(1, 30), ids), max_size=40)


def batch(made: list[tuple[int, int]]) -> bytes:
    return pack_outgoing(
        [
            Outgoing(DIGEST, b"Nats-Msg-Id: %032x\r\n" % id, b"{}", arrival_ns=arrival)
            for arrival, id in made
        ]
    )


def expected(made: list[tuple[int, int]], through: int) -> tuple[int, int]:
    counted = [id for arrival, id in made if arrival <= through]
    return len(counted), sum(counted) % MODULUS


@settings(max_examples=cases(200, 10_000), deadline=None)
@given(digests, st.lists(st.integers(0, 30), max_size=6), st.integers(1, 7))
def test_the_sum_is_that_of_what_arrived_until_then(
    made: list[tuple[int, int]], folds: list[int], step: int
) -> None:
    sums = DigestSums()
    for number in range(0, len(made), step):
        sums.add(batch(made[number : number + step]))
        if folds:
            sums.advance(folds.pop())
    for through in range(sums.through, 31):
        assert sums.at(through) == expected(made, through)
    assert len(sums) == sum(arrival > sums.through for arrival, _id in made)


@given(digests, digests)
def test_it_goes_on_from_a_checkpoint(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    count, total = expected(before, 30)
    sums = DigestSums(30, count, total)
    later = [(arrival + 30, id) for arrival, id in after]
    sums.add(batch(later))
    assert sums.at(60) == expected([*before, *later], 60)


def test_what_is_folded_cannot_be_asked_for_any_more() -> None:
    sums = DigestSums(10)
    with pytest.raises(ValueError, match="9 lies before 10"):
        sums.at(9)


def test_rejected_messages_do_not_count_and_a_digest_without_an_id_is_none_of_ours() -> None:
    sums = DigestSums()
    sums.add(pack_outgoing([Outgoing(REJECTION, b"", b"x", arrival_ns=1)]))
    assert sums.at(5) == (0, 0)
    with pytest.raises(ValueError, match="a digest without an id"):
        sums.add(pack_outgoing([Outgoing(DIGEST, b"", b"x", arrival_ns=1)]))
