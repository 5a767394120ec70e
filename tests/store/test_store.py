"""What every store promises, whatever keeps it; then what the one on a disk must stand."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.keyspaces import claimed
from support.rows import Rows, checkpoint, key_of, packed, some_rows, unpacked

from alarmdigest.settings import Settings
from alarmdigest.state.position import OutputPosition
from alarmdigest.store import Checkpoint, Store, StoreError, open_store

KINDS = ("lmdb", "memory", pytest.param("cassandra", marks=pytest.mark.cassandra))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store
    if request.param == "cassandra":
        opened = claimed(request.getfixturevalue("keyspace").target)
    else:
        opened = open_store(Settings(store=request.param, data_dir=tmp_path / "data"))
    with opened:
        yield opened


def rows_of(store: Store) -> Rows:
    rows = unpacked(store.rows())
    assert rows == sorted(set(rows)), "rows are not in the order of their keys"
    return dict(rows)


def test_a_new_store_has_no_checkpoint_and_no_rows(store: Store) -> None:
    assert store.last is None
    assert rows_of(store) == {}


def test_what_was_committed_is_there(store: Store) -> None:
    rows, last = some_rows(500), checkpoint(500)
    store.commit([packed(rows)], last)
    assert store.last == last
    assert rows_of(store) == rows
    assert rows_of(store) == rows, "a second time"


def test_later_rows_win_over_earlier_ones_and_empty_ones_delete(store: Store) -> None:
    a, b, c, d = (key_of(user) for user in "abcd")
    store.commit([packed({a: b"1", b: b"1", c: b"1"})], checkpoint(3, 1))
    store.commit(
        [packed([(a, b"2"), (b, b""), (d, b"2")]), packed([(a, b"3"), (c, b""), (c, b"4")])],
        checkpoint(3, 2),
    )
    assert rows_of(store) == {a: b"3", c: b"4", d: b"2"}


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.commit([packed({key_of("a"): b""})], checkpoint(0))
    assert rows_of(store) == {}


def test_a_checkpoint_without_rows_moves_the_position_alone(store: Store) -> None:
    rows = some_rows(3)
    store.commit([packed(rows)], checkpoint(3, 1))
    store.commit([], checkpoint(3, 2, position=None))
    assert store.last == checkpoint(3, 2, position=None)
    assert rows_of(store) == rows


def test_rows_come_in_chunks_of_about_a_mebibyte_ordered_by_bucket(store: Store) -> None:
    rows = some_rows(3000, 3900)
    store.commit([packed(rows)], checkpoint(3000))
    chunks = list(store.rows())
    assert dict(unpacked(chunks)) == rows
    assert all(1 << 20 <= len(chunk) < (1 << 20) + 4096 for chunk in chunks[:-1])
    buckets = [key[:2] for key, _ in unpacked(chunks)]
    assert buckets == sorted(buckets)


@pytest.mark.parametrize("said", [2, 4])
def test_a_wrong_number_of_rows_is_refused_and_changes_nothing(store: Store, said: int) -> None:
    rows = some_rows(3)
    store.commit([packed(rows)], checkpoint(3, 1))
    with pytest.raises(StoreError, match=f"would hold 3 rows, the checkpoint says {said}"):
        store.commit([packed(dict.fromkeys(rows, b"new"))], checkpoint(said, 2))
    assert store.last == checkpoint(3, 1)
    assert rows_of(store) == rows
    store.commit([packed(dict.fromkeys(rows, b"new"))], checkpoint(3, 2))
    assert rows_of(store) == dict.fromkeys(rows, b"new")


def test_half_a_row_is_refused_and_changes_nothing(store: Store) -> None:
    rows = some_rows(3)
    store.commit([packed(rows)], checkpoint(3, 1))
    with pytest.raises(ValueError, match="within a row"):
        store.commit([packed({next(iter(rows)): b"new"}), b"\1"], checkpoint(3, 2))
    assert (store.last, rows_of(store)) == (checkpoint(3, 1), rows)


def test_a_commit_ends_a_reading_that_is_going_on(store: Store) -> None:
    store.commit([packed(some_rows(600, 3900))], checkpoint(600, 1))
    reading = store.rows()
    next(reading)
    store.commit([], checkpoint(600, 2))
    with pytest.raises(StoreError, match="after a commit"):
        next(reading)
    assert len(rows_of(store)) == 600


def test_it_may_be_closed_twice(store: Store) -> None:
    store.close()
    store.close()


def test_any_history_of_commits_reads_back_as_a_dict_would(store: Store) -> None:
    chance, expected = random.Random(5), dict[bytes, bytes]()
    keys = [key_of(f"user-{number}", block) for number in range(40) for block in range(4)]
    for number in range(1, 200):
        few = chance.sample(keys, chance.randint(0, 60))
        changes = [(key, chance.randbytes(chance.choice((0, 3, 500, 2100, 3990)))) for key in few]
        expected |= changes
        expected = {key: value for key, value in expected.items() if value}
        half = len(changes) // 2
        store.commit(
            [packed(changes[:half]), packed(changes[half:])], checkpoint(len(expected), number)
        )
        assert rows_of(store) == expected


texts = st.text(st.characters(codec="utf-8"))


positions = st.builds(OutputPosition, texts, st.integers(0, 2**64 - 1), texts)


@given(st.dictionaries(texts, positions), texts)
def test_a_checkpoint_record_reads_back_the_same(
    outputs: dict[str, OutputPosition], stream: str
) -> None:
    made = checkpoint(3, outputs=outputs)
    assert made.position
    made = replace(made, position=replace(made.position, stream=stream))
    assert Checkpoint.from_record(made.to_record()) == made


def test_a_record_of_the_first_versions_tells_output_positions_without_ids() -> None:
    fields = json.loads(checkpoint(3).to_record().partition(b"\n")[2])
    fields["outputs"] = {"ALARM_DIGESTS": ["2026-01-02T03:04:06Z", 5]}
    text = json.dumps(fields).encode()
    record = hashlib.blake2b(text, digest_size=16).hexdigest().encode() + b"\n" + text
    outputs = Checkpoint.from_record(record).outputs
    assert outputs == {"ALARM_DIGESTS": OutputPosition("2026-01-02T03:04:06Z", 5)}


def test_a_changed_bit_of_a_checkpoint_record_is_noticed() -> None:
    record = checkpoint(3).to_record()
    for bit in range(8 * len(record)):
        changed = bytearray(record)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="record"):
            Checkpoint.from_record(bytes(changed))
