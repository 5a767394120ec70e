"""Digests as they are delivered, let in by their order in the stream.

JetStream delivers again what was not acknowledged, once ``ack_wait`` has passed, and does not wait
with newer digests until then. So whoever takes over (after a crash, a lost connection, another
process) would send a user's later digest before the earlier one. Therefore nothing is let in
until everything that the server counts as unacknowledged has been delivered to us.
"""

from __future__ import annotations

import logging
import time

from alarmdigest.connect.deliver.consumer import Arrived, DigestJetStream
from alarmdigest.connect.deliver.deliveries import Held
from alarmdigest.connect.deliver.digests import Digest, Unreadable, read_digest
from alarmdigest.runtime.logs import Fields

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
# So many times as long as JetStream waits before it delivers again: then something else is wrong.
PATIENCE = 3
# Digests that were acknowledged lately, and may be delivered again if the server lost that.
MOST_SETTLED = 10_000


class Intake:
    """Belongs to one thread. ``ack_wait_s``: so long JetStream waits, before it delivers again."""

    def __init__(self, stream: str, consumer: str, held: Held, ack_wait_s: float) -> None:
        self.ack_wait_s = ack_wait_s
        self._stream, self._consumer = stream, consumer
        self._held = held
        self._waiting: dict[int, Digest] = {}
        self._settled: dict[int, None] = {}
        self._look_at = 0.0
        self._last_before = 0
        self._patient_until = 0.0
        self.catching_up = True
        self.unreadable: list[tuple[Digest, str]] = []

    def begin(self, last_before: int) -> None:
        """Take over; ``last_before`` is the last sequence that somebody may have dealt with."""
        self.forget_all()
        self._last_before = last_before

    def reconnected(self) -> None:
        """What was delivered and got lost on its way comes again first."""
        self.catching_up = True
        self._look_at = 0.0
        self._patient_until = time.monotonic() + PATIENCE * self.ack_wait_s

    def forget_all(self) -> None:
        self._waiting.clear()
        self._settled.clear()
        self.unreadable.clear()
        self.reconnected()

    def settled(self, digest: Digest) -> None:
        self._settled[digest.sequence] = None
        if len(self._settled) > MOST_SETTLED:
            del self._settled[next(iter(self._settled))]

    def take(self, arrived: Arrived) -> bytes | None:
        """Where to acknowledge at once, if it is one that we have dealt with."""
        if arrived.sequence in self._settled:
            return arrived.reply
        if (known := self._held.digests.get(arrived.sequence)) is not None:
            known.reply = arrived.reply
            return None
        again = arrived.delivered > 1 or arrived.sequence <= self._last_before
        try:
            digest = read_digest(arrived, self._stream, again=again)
        except Unreadable as error:
            digest = Digest(
                arrived.sequence,
                arrived.at_ns,
                arrived.reply,
                f"{self._stream}-{arrived.sequence}",
                request="",
                user_id="",
                alarms=(),
                body=arrived.body,
                again=again,
            )
            self.unreadable.append((digest, str(error)))
            self._held.add(digest)
            return None
        self._held.add(digest)
        self._waiting[digest.sequence] = digest
        return None

    def let_in(self, js: DigestJetStream) -> list[Digest]:
        """Those whose turn it is, in order. Raises what requests raise."""
        if self.catching_up:
            now = time.monotonic()
            if now < self._look_at:
                return []
            self._look_at = now + LOOK_EVERY_S
            missing = js.standing(self._stream, self._consumer).unacknowledged - len(self._held)
            if missing > 0 and now < self._patient_until:
                log.debug("waiting for what is delivered again%s", Fields(digests=missing))
                return []
            if missing > 0:
                log.warning(
                    "not delivered again in time; should they come, they come out of order%s",
                    Fields(digests=missing),
                )
            self.catching_up = False
        ready = [self._waiting[sequence] for sequence in sorted(self._waiting)]
        self._waiting.clear()
        return ready
