"""What a data directory holds, read beside the service that writes it."""

from __future__ import annotations

import secrets
from pathlib import Path

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.store import StoreError
from alarmdigest.store.lmdb.store import open_for_reading


def stored_rows(data_dir: Path) -> int:
    """How many rows the last checkpoint has; 0 where there is none."""
    with open_for_reading(data_dir) as reader:
        return reader.last.blocks if reader.last is not None else 0


def stored_book(data_dir: Path) -> AlarmBook:
    """All alarms of the last checkpoint, those of all workers."""
    book = AlarmBook(
        retention_ns=2**62, split_bytes=1024 * 1024, secret=secrets.token_bytes(16), stream=b""
    )
    with open_for_reading(data_dir) as reader:
        for chunk in reader.rows():
            book.load_rows(chunk)
    return book


def stored_alarms(data_dir: Path) -> int:
    """How many alarms the last checkpoint has; 0 where there is no store yet."""
    try:
        return stored_book(data_dir).alarm_count
    except StoreError:
        return 0
