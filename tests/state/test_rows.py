"""Packed rows in the compiled core: ordered, sealed, checked, and shared out to workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import key_of, packed, some_rows, unpacked
from support.workers import worker_of

from alarmdigest._ext.rows import CommitBatch, RowDamaged, pack, split_by_worker

users = st.sampled_from([key_of(f"user-{number}") for number in range(8)])
chunks_of_rows = st.lists(st.lists(st.tuples(users, st.binary(max_size=30)), max_size=8))


@given(chunks_of_rows)
def test_a_batch_holds_the_last_row_of_every_key_in_the_order_of_keys(
    chunks: list[list[tuple[bytes, bytes]]],
) -> None:
    batch = CommitBatch([packed(chunk) for chunk in chunks])
    expected = dict(row for chunk in chunks for row in chunk)
    chunk, count, last = pack(batch.puts(), 1 << 20)
    kept = sorted(row for row in expected.items() if row[1])
    assert unpacked([chunk]) == kept
    assert count == len(kept)
    assert last == (kept[-1][0] if kept else b"")
    assert batch.deletions() == sorted(key for key, value in expected.items() if not value)
    assert batch.put_keys() == [key for key, _ in kept]
    changes = list(batch.changes())
    assert [(key, value) for key, value in changes if value is not None] == list(batch.puts())
    assert [key for key, value in changes if value is None] == batch.deletions()
    assert [key for key, _ in changes] == sorted(expected)
    assert len(batch) == len(expected)


def test_a_chunk_is_full_at_its_limit_and_the_next_goes_on_behind_it() -> None:
    rows = some_rows(100, 100)
    items = CommitBatch([packed(rows)]).puts()
    chunks, previous = [], b""
    while (step := pack(items, 1000, previous))[1]:
        chunks.append(step[0])
        previous = step[2]
    assert unpacked(chunks) == sorted(rows.items())
    assert all(1000 <= len(chunk) < 1000 + 126 for chunk in chunks[:-1])


@pytest.mark.parametrize("cut", [1, 3, 4, 25, 26, 27])
def test_half_a_row_is_refused_before_anything_is_done(cut: int) -> None:
    chunk = packed({key_of("a"): b"some value"})
    for bad in (chunk[:cut], chunk + chunk[:cut]):
        with pytest.raises(ValueError, match="within a row"):
            CommitBatch([bad])
        with pytest.raises(ValueError, match="within a row"):
            split_by_worker(bad, 2)


def test_any_changed_bit_of_key_or_value_is_noticed() -> None:
    ((key, value),) = CommitBatch([packed({key_of("a"): b"some value"})]).puts()
    for bit in range(8 * len(key)):
        changed = bytearray(key)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RowDamaged):
            pack([(changed, value)], 100)
    for bit in range(8 * len(value)):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RowDamaged):
            pack([(key, changed)], 100)
    for short in (value[:-1], value[1:], b"", key[:-1]):
        with pytest.raises(RowDamaged):
            pack([(key, short)], 100)


def test_rows_out_of_order_or_there_twice_are_noticed() -> None:
    first, second = CommitBatch([packed(some_rows(2))]).puts()
    for items in ([second, first], [first, first]):
        with pytest.raises(RowDamaged, match="order"):
            pack(items, 1 << 20)
        with pytest.raises(RowDamaged, match="order"):
            pack(items[1:], 1 << 20, items[0][0])


@pytest.mark.parametrize("workers", [1, 2, 12, 4096])
def test_every_row_goes_to_the_worker_of_its_user(workers: int) -> None:
    rows = {key_of(f"user-{number}"): b"%d" % number for number in range(3000)}
    parts = split_by_worker(packed(rows), workers)
    assert len(parts) == workers
    for worker, part in enumerate(parts):
        expected = [
            row for row in rows.items() if worker_of(f"user-{int(row[1])}", workers) == worker
        ]
        assert unpacked([part]) == expected


@pytest.mark.parametrize("workers", [0, -1, 4097])
def test_no_such_number_of_workers(workers: int) -> None:
    with pytest.raises(ValueError, match="workers"):
        split_by_worker(b"", workers)
