"""A store that version 0.1 wrote, before the package was put in rooms, is read and gone on with."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from support.command import run_command
from support.paths import TESTS

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.pipeline.loading import load_books
from alarmdigest.settings import Settings
from alarmdigest.store import open_store
from alarmdigest.store.base import Checkpoint

NET = "net \N{LATIN SMALL LETTER E WITH ACUTE}"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    with tarfile.open(TESTS / "store/store-0.1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def books(count: int) -> list[AlarmBook]:
    return [
        AlarmBook(retention_ns=10**18, split_bytes=65536, secret=bytes(16)) for _ in range(count)
    ]


def test_its_alarms_are_shown(data_dir: Path) -> None:
    found = json.loads(run_command("show", "ada", "--json", "--data-dir", str(data_dir)).stdout)
    assert found["checkpoint"] == 5
    assert [(one["AlarmID"], one["Status"], one["due"]) for one in found["alarms"]] == [
        ("cpu", "CLEARED", False),
        ("disk", "CRITICAL", False),
        (NET, "WARNING", True),
    ]
    disk = found["alarms"][1]
    assert disk["LatestChangedAt"] == "2026-11-01T10:05:00.500000000Z"
    assert disk["sent"] == {"Status": "CRITICAL", "LatestChangedAt": disk["LatestChangedAt"]}


def test_it_is_loaded_written_to_and_loaded_again(data_dir: Path) -> None:
    with open_store(Settings(data_dir=data_dir)) as store:
        last = store.last
        assert last is not None
        assert last.position is not None
        assert (last.position.stream, last.position.sequence) == ("ALARMS", 506)
        assert last.outputs["ALARM_DIGESTS"].sequence == 1
        assert last.settings["retention"] == 100 * 86_400 * 10**9
        loaded = books(3)
        load_books(store, loaded)
        assert sum(book.alarm_count for book in loaded) == 504
        assert sum(book.due_count for book in loaded) == 502
        assert sum(book.block_count for book in loaded) == last.blocks
        changed = {name: getattr(last, name) for name in Checkpoint.__slots__} | {"number": 6}
        store.commit([], Checkpoint(**changed))
    with open_store(Settings(data_dir=data_dir)) as store:
        assert store.last is not None
        assert store.last.number == 6
        again = books(12)
        load_books(store, again)
        assert sum(book.alarm_count for book in again) == 504
