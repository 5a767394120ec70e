"""Where an alarm's details stand in the bucket ALARM_DETAILS; docs/wire.md has the format."""

from __future__ import annotations

import hashlib
from functools import lru_cache

HASH_CHARS = 32


def key_of(user_id: str, alarm_id: str) -> str:
    """Of the entry: ``<hash of the user>.<hash of the user and the alarm>``, each the first 32
    hexadecimal digits of a SHA-256. The length in front tells where the user's id ends."""
    user = user_id.encode()
    return f"{user_key(user_id)}.{_hash(b'%d:%b%b' % (len(user), user, alarm_id.encode()))}"


@lru_cache(maxsize=4096)
def user_key(user_id: str) -> str:
    """What the keys of all of a user's alarms begin with, up to the dot."""
    return _hash(user_id.encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:HASH_CHARS]
