"""What one request has brought, on its way to NATS and back to its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from alarmdigest.connect.bridge.alerts import Rejection
from alarmdigest.connect.bridge.mapping import Alarm


@dataclass(slots=True, eq=False)
class Work:
    """``on_published`` is called once, from the publisher's thread, with what went wrong; empty
    when JetStream has confirmed everything. ``abandoned``: its sender was told to come again, and
    must not find later that it was published all the same. Times: ``received_ns`` since 1970,
    ``at`` monotonic."""

    sender: str
    alarms: Sequence[Alarm]
    rejections: Sequence[Rejection]
    on_published: Callable[[str], None]
    received_ns: int = field(default_factory=time.time_ns)
    at: float = field(default_factory=time.monotonic)
    abandoned: bool = False

    def __len__(self) -> int:
        """Messages, for the bound of the queue: a request without any counts too."""
        return len(self.alarms) + len(self.rejections) + 1
