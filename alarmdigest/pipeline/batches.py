"""What goes through the queues: batches, each with ``age_from``, when its input was read
(``time.monotonic()``).

One time for a whole batch is exact for each of its messages: they came with one read (of rejections
that had to wait, it is that of the last read).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alarmdigest.pipeline.trace import TracedPlace


@dataclass(slots=True)
class Routed:
    """Routed records (ext/wire/records.pxd) on their way to a worker. ``traced`` are those of a
    user who is followed (``trace.py``)."""

    records: bytes
    age_from: float
    traced: Sequence[TracedPlace] = ()

    def __len__(self) -> int:
        return len(self.records)


@dataclass(slots=True)
class Outgoing:
    """Outgoing records on their way to the publisher. ``answered``: how many requests these
    digests answer; 0 for rejections. ``on_confirmed`` is called when all of it is confirmed."""

    records: bytes
    age_from: float
    answered: int = 0
    on_confirmed: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self.records)


def joined(batches: Sequence[Outgoing]) -> bytes:
    return b"".join([batch.records for batch in batches])


def requests_in(batches: Sequence[Outgoing]) -> list[tuple[float, int]]:
    """When requests were read, and how many of them have their digests in these batches."""
    return [(batch.age_from, batch.answered) for batch in batches if batch.answered]
