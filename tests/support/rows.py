"""Packed rows and checkpoints by hand, as the alarm books make them."""

import hashlib
import random
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from alarmdigest.state.position import OutputPosition, StreamPosition
from alarmdigest.store import Checkpoint
from alarmdigest.wire.buckets import bucket_of

Rows = dict[bytes, bytes]


def key_of(user_id: str, block: int = 0) -> bytes:
    user = hashlib.blake2b(user_id.encode(), digest_size=16).digest()
    return struct.pack(">H16sI", bucket_of(user_id), user, block)


def packed(rows: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> bytes:
    """One chunk of rows; an empty value deletes."""
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    return b"".join(struct.pack("<I", len(value)) + key + value for key, value in pairs)


def unpacked(chunks: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """The rows of chunks, in their order."""
    rows = []
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            (length,) = struct.unpack_from("<I", chunk, at)
            rows.append((chunk[at + 4 : at + 26], chunk[at + 26 : at + 26 + length]))
            at += 26 + length
        assert at == len(chunk), "a chunk ends within a row"
    return rows


def some_rows(count: int, size: int = 1000, *, seed: int = 1, first: int = 0) -> Rows:
    """Rows of users ``first`` to ``first + count - 1``, values of at most ``size`` bytes."""
    chance = random.Random(seed)
    return {
        key_of(f"user-{number}"): chance.randbytes(chance.randint(max(1, size // 2), size))
        for number in range(first, first + count)
    }


def checkpoint(blocks: int, number: int = 1, **fields: Any) -> Checkpoint:
    """A checkpoint in which every field holds something."""
    return Checkpoint(
        **{
            "number": number,
            "written_at_ns": 1_700_000_000_000_000_000 + number,
            "position": StreamPosition("ALARMS", "2026-01-02T03:04:05.678901234Z", number * 10, 99),
            "arrival_ns": 1_700_000_000_000_000_007,
            "outputs": {
                "ALARM_DIGESTS": OutputPosition("2026-01-02T03:04:06Z", number * 3, "0" * 32)
            },
            "settings": {"clock_skew": 3600, "retention": 604800},
            "blocks": blocks,
            **fields,
        }
    )
