"""Ids are BLAKE2b of what the documentation says, wherever the parts lie in the hash's blocks."""

from __future__ import annotations

import hashlib
import struct

import pytest

from alarmdigest._ext.outgoing import published_id


@pytest.mark.parametrize("name_length", [0, 1, 8, 83, 99, 100, 101, 127, 128, 129, 255])
def test_payloads_of_all_lengths(name_length: int) -> None:
    name = b"S" * name_length
    for length in [*range(401), 1023, 1024, 1025, 65_537]:
        payload = bytes(place * 7 & 0xFF for place in range(length))
        position = struct.pack("<QqI", 2**63 + length, -length, 0)
        expected = hashlib.blake2b(name + b"\0" + position + payload, digest_size=16)
        assert published_id(name, 2**63 + length, -length, payload) == expected.hexdigest().encode()
