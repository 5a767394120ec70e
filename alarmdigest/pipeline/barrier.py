"""Barriers: markers that find out when everything up to a message of the input is done.

The listener puts a barrier for position S into every worker's queue and into the publisher's, after
everything that it has read or passed over. On reaching it, a worker passes it on to the publisher,
after the digests it has made. When the publisher has received the barrier from every worker and
from the listener, and everything before it is confirmed, what belongs to input up to S is done.
(Such barriers are known from stream processors such as Flink. The publisher does not align them: it
goes on taking what a producer brings after its barrier, and so notes the output positions when the
first one comes. They only need queues that keep order.)
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from alarmdigest.state.position import StreamPosition


@dataclass(slots=True)
class Barrier:
    """Everything up to ``position`` stands before it in every queue (None in core mode, and before
    a first start has opened its stream).

    ``arrival_ns`` is the arrival clock there. ``age_from`` (``time.monotonic()``) is when it was
    made; batches have the same field, from which the age of what waits in a queue is measured.
    """

    number: int
    position: StreamPosition | None
    arrival_ns: int
    #: Whether a checkpoint is written for it. One without, in a group, only tells how far
    #: everything is made, and confirmed.
    of_checkpoint: bool = True
    #: Whether its checkpoint is of all rows, not only of those that changed since the last one.
    of_all_rows: bool = False
    age_from: float = field(default_factory=time.monotonic, compare=False)
    #: Set once nothing more is done for it: its checkpoint is stored, nothing had changed, or the
    #: store refused it and wants all rows with the next one. Without a checkpoint: once it has come
    #: from every producer, since nobody knows for how long a follower has to keep it.
    done: threading.Event = field(default_factory=threading.Event, compare=False)
    #: Whether the store has all that its checkpoint says; set before ``done``.
    stored: bool = field(default=False, compare=False)
