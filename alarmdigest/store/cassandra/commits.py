"""Commits on their way: sent and not answered, or valid and not where they belong yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from alarmdigest._ext.rows import CommitBatch
from alarmdigest.store.base import Checkpoint
from alarmdigest.store.cassandra.ownership import Attempt
from alarmdigest.store.cassandra.record import Journal


@dataclass(slots=True)
class Unfolded:
    """A journal whose rows are not all where they belong; ``folding`` is how far that is."""

    journal: Journal
    batch: CommitBatch
    folding: Iterator[int] | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """A commit that was sent, and may have happened. ``what`` is a hash of what it holds."""

    what: bytes
    attempt: Attempt
    checkpoint: Checkpoint
    batch: CommitBatch
    anew: bool


def hash_of(rows: Sequence[bytes], checkpoint: Checkpoint) -> bytes:
    hashed = hashlib.blake2b(checkpoint.to_record(), digest_size=16)
    for chunk in rows:
        # How it is cut counts, too: so are the parts of the journal.
        hashed.update(len(chunk).to_bytes(8, "big"))
        hashed.update(chunk)
    return hashed.digest()
