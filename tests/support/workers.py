"""Which worker holds a user."""

from __future__ import annotations

from alarmdigest.wire.buckets import bucket_of


def worker_of(user_id: str, workers: int) -> int:
    """The number of the worker that holds this user's alarms, from 0 to ``workers - 1``."""
    return bucket_of(user_id) % workers
