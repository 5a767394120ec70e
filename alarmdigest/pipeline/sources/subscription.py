"""Fed by plain subscriptions: everything is delivered once, to those who listen."""

from __future__ import annotations

import logging
import time

from alarmdigest._ext.router import EVENT_SIDS, FORGET_SIDS, REQUEST_SIDS, Router
from alarmdigest._ext.timestamps import DAY_NS
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, NatsError
from alarmdigest.pipeline.sources.clock import SteadyClock
from alarmdigest.pipeline.sources.source import Source
from alarmdigest.runtime.logs import Fields
from alarmdigest.state.position import StreamPosition

log = logging.getLogger(__name__)


class SubscriptionSource(Source):
    """Plain subscriptions: everything is delivered once, to those who listen."""

    lossy = True

    def __init__(
        self,
        event_subject: str,
        request_subject: str,
        forget_subject: str,
        drain_timeout_s: float,
        *,
        accept_clock_step: bool = False,
    ) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._accept_clock_step = accept_clock_step
        self.clock = SteadyClock(accept=accept_clock_step)
        self._subscriptions = [
            (sid, name)
            for sids, subject in (
                (EVENT_SIDS, event_subject),
                (REQUEST_SIDS, request_subject),
                (FORGET_SIDS, forget_subject),
            )
            for sid, name in zip(sids, (subject, f"{subject}.>"), strict=True)
        ]
        self._forget_subject = forget_subject
        self._told_of_forget = False
        self._subscribed = 0
        self._unsubscribed = 0
        self._deadline = 0.0
        self._disconnects = 0

    def open(self, connection: Connection, router: Router, received: bytes | None) -> None:
        connection.send(
            b"".join(b"SUB %b  %d\r\n" % (name.encode(), sid) for sid, name in self._subscriptions)
        )
        self._subscribed = connection.send_ping()

    def can_do_without(self, refused: str) -> bool:
        """Permissions that were written for an earlier version know nothing of users to forget."""
        subject = self._forget_subject
        if not any(f'"{one}"' in refused for one in (subject, f"{subject}.>")):
            return False
        if not self._told_of_forget:
            self._told_of_forget = True
            log.warning(
                "we may not subscribe to %s, so that nobody can have a user forgotten: "
                "deploy/nats-permissions-core.conf has what is needed (%s)",
                subject,
                refused,
            )
        return True

    def consuming(self, connection: Connection) -> bool:
        return connection.pongs >= self._subscribed

    def hear(self, connection: Connection, router: Router) -> None:
        """Nothing is asked."""

    def request_more(self, connection: Connection, router: Router, *, pause: bool) -> None:
        """A subscriber need not ask; but until it knows that it is one, it watches the server."""
        if connection.pongs < self._subscribed:
            connection.still_there()
        if self._accept_clock_step and router.arrival_ns > (now_ns := time.time_ns()) + DAY_NS:
            router.arrival_ns = now_ns

    def now_ns(self) -> int:
        return self.clock.now_ns()

    @property
    def arrival_steps(self) -> int:
        return self.clock.steps

    def status(self, headers: bytes, router: Router) -> None:
        """Nobody sends us one."""

    def stop(self, connection: Connection) -> None:
        connection.send(b"".join(b"UNSUB %d\r\n" % sid for sid, _ in self._subscriptions))
        # Everything that the server sent before it saw this comes before its PONG.
        self._unsubscribed = connection.send_ping()
        self._deadline = time.monotonic() + self._drain_timeout_s

    def stopped(self, connection: Connection) -> bool:
        if connection.pongs >= self._unsubscribed:
            return True
        if time.monotonic() > self._deadline:
            raise ConnectionLost(f"{connection.url}: no answer while draining")
        return False

    def behind(self, router: Router) -> int | None:
        return None  # what the server still holds for us, it does not say

    def position(self, router: Router) -> StreamPosition | None:
        return None

    def losses(self, router: Router) -> dict[str, int]:
        return {"core_connection": self._disconnects}  # what each has cost nobody knows

    def on_disconnect(self, reason: NatsError) -> None:
        self._disconnects += 1
        log.error(
            "connection lost%s; what is published until it is back does not reach us (core mode)",
            Fields(name="alarmdigest", reason=reason),
        )
