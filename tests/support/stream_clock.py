"""What a stream looks like whose server's clock was wrong: its message files, stamped anew.

A Go program takes no other clock (libfaketime does not reach it), so the times are put where the
server keeps them, with the checksums that it wants to see: HighwayHash-64 of each record, keyed
with the SHA-256 of ``<stream>-<number of the file>`` (nats-server, filestore.go). The files must
not be compressed nor encrypted, and the server must not run.
"""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

HEADER = struct.Struct("<IQqH")  # length of the record, sequence, time in ns, length of the subject
HAS_HEADERS = 1 << 31
HASH_BYTES = 8
MASK = 2**64 - 1


def shift_times(store: Path, stream: str, by_ns: int, *, behind: int = 0) -> int:
    """Move the times of a stream's messages behind this sequence; how many these are."""
    [folder] = store.glob(f"*/streams/{stream}/msgs")
    count = 0
    for file in folder.glob("*.blk"):
        number = re.fullmatch(r"(\d+)\.blk", file.name)
        assert number is not None
        key = hashlib.sha256(f"{stream}-{number[1]}".encode()).digest()
        block = bytearray(file.read_bytes())
        start = 0
        while start < len(block):
            length, sequence, time_ns, _subject = HEADER.unpack_from(block, start)
            end = start + (length & ~HAS_HEADERS)
            assert _checksum(key, block, start, end) == block[end - HASH_BYTES : end], "not our way"
            if sequence > behind:
                struct.pack_into("<q", block, start + 12, time_ns + by_ns)
                block[end - HASH_BYTES : end] = _checksum(key, block, start, end)
                count += 1
            start = end
        file.write_bytes(block)
    # The server's summary of them; it makes another.
    (folder / "index.db").unlink(missing_ok=True)
    return count


def _checksum(key: bytes, block: bytearray, start: int, end: int) -> bytes:
    length, _sequence, _time_ns, subject = HEADER.unpack_from(block, start)
    body = start + HEADER.size
    parts = [block[start + 4 : start + 20], block[body : body + subject]]
    body += subject
    if length & HAS_HEADERS:
        (headers,) = struct.unpack_from("<I", block, body)
        body += 4
        parts += [block[body : body + headers]]
        body += headers
    parts += [block[body : end - HASH_BYTES]]
    return highway_hash_64(key, b"".join(parts)).to_bytes(HASH_BYTES, "little")


def highway_hash_64(key: bytes, data: bytes) -> int:
    """As its authors describe it (https://github.com/google/highwayhash)."""
    state = _State(struct.unpack("<4Q", key))
    whole = len(data) & ~31
    for start in range(0, whole, 32):
        state.update(struct.unpack_from("<4Q", data, start))
    if whole < len(data):
        state.update_rest(data[whole:])
    for _ in range(4):
        state.update([_halves_swapped(state.v0[i]) for i in (2, 3, 0, 1)])
    return (state.v0[0] + state.v1[0] + state.mul0[0] + state.mul1[0]) & MASK


class _State:
    def __init__(self, key: tuple[int, ...]) -> None:
        self.mul0 = [0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3]
        self.mul1 = [0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377]
        self.v0 = [mul ^ part for mul, part in zip(self.mul0, key, strict=True)]
        self.v1 = [m ^ _halves_swapped(part) for m, part in zip(self.mul1, key, strict=True)]

    def update(self, lanes: tuple[int, ...] | list[int]) -> None:
        v0, v1 = self.v0, self.v1
        for i in range(4):
            v1[i] = (v1[i] + self.mul0[i] + lanes[i]) & MASK
            self.mul0[i] ^= (v1[i] & 0xFFFFFFFF) * (v0[i] >> 32)
            v0[i] = (v0[i] + self.mul1[i]) & MASK
            self.mul1[i] ^= (v0[i] & 0xFFFFFFFF) * (v1[i] >> 32)
        for from_, to in ((v1, v0), (v0, v1)):
            for i in (0, 2):
                low, high = _zipped(from_[i + 1], from_[i])
                to[i] = (to[i] + low) & MASK
                to[i + 1] = (to[i + 1] + high) & MASK

    def update_rest(self, rest: bytes) -> None:
        size = len(rest)
        for i in range(4):
            self.v0[i] = (self.v0[i] + (size << 32) + size) & MASK
            low, high = self.v1[i] & 0xFFFFFFFF, self.v1[i] >> 32
            self.v1[i] = _rotated(low, size) | _rotated(high, size) << 32
        packet = bytearray(32)
        fours, odd = size & ~3, size & 3
        packet[:fours] = rest[:fours]
        if size & 16:
            packet[28:] = rest[size - 4 :]
        elif odd:
            packet[16:19] = bytes([rest[fours], rest[fours + (odd >> 1)], rest[size - 1]])
        self.update(struct.unpack("<4Q", packet))


def _rotated(half: int, by: int) -> int:
    return (half << by | half >> (32 - by)) & 0xFFFFFFFF


def _halves_swapped(value: int) -> int:
    return value >> 32 | (value & 0xFFFFFFFF) << 32


def _zipped(v1: int, v0: int) -> tuple[int, int]:
    """Bytes of both, mixed."""
    low = (
        ((v0 & 0xFF000000) | (v1 & 0xFF00000000)) >> 24
        | ((v0 & 0xFF0000000000) | (v1 & 0xFF000000000000)) >> 16
        | (v0 & 0xFF0000)
        | (v0 & 0xFF00) << 32
        | (v1 & 0xFF00000000000000) >> 8
        | (v0 << 56) & MASK
    )
    high = (
        ((v1 & 0xFF000000) | (v0 & 0xFF00000000)) >> 24
        | (v1 & 0xFF0000)
        | (v1 & 0xFF0000000000) >> 16
        | (v1 & 0xFF00) << 24
        | (v0 & 0xFF000000000000) >> 8
        | (v1 & 0xFF) << 48
        | (v0 & 0xFF00000000000000)
    )
    return low, high
