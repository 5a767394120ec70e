"""One pull consumer, from its first pull until it is lost."""

from __future__ import annotations

import re
import time

from alarmdigest._ext.router import STREAM_SID, Router
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConsumerGone

MIB = 1024 * 1024
# One pull asks for so many messages. A server cuts off a client for which more than 64 MiB are
# pending, so all pulls on their way together ask for at most half of it, unless one message alone
# may be larger.
PULL_MESSAGES = 5000
PULL_BYTES = 8 * MIB
ALL_PULLS_BYTES = 32 * MIB
MESSAGE_OVERHEAD_BYTES = 8 * 1024
PULL_EXPIRES_S = 30
# Missing heartbeats are often the only sign of a consumer that is lost: its server hangs, or a
# stream was deleted under traffic (nats-server 2.15.1), and what is published until it is there
# again is kept by nobody. After the first that is missed we ask whether our own server is there. If
# it is, the consumer is not; another one costs little. A server is given more time.
HEARTBEAT_S = 0.3
PING_AFTER_S = 0.45
LOST_AFTER_S = 0.75
HANGS_AFTER_S = 0.9
# Between two looks no more than this counts as silence: while we wait for our own workers,
# heartbeats may lie unread.
LONGEST_LOOK_S = 0.3


class Pulls:
    """Asks for messages, in pulls bounded in messages and in bytes, and counts what comes.

    How many are still to come is counted here, since a pull that ends early says how many it left.
    """

    def __init__(
        self, connection: Connection, router: Router, *, next_subject: str, patience: float
    ) -> None:
        """The consumer delivers what is asked of it at ``next_subject``. Silence is borne
        ``patience`` times as long as usual."""
        patience = max(patience, connection.patience)
        self._connection = connection
        self._router = router
        self._next = next_subject.encode()
        self._inbox = connection.new_inbox().encode()
        self._asked = 0  # messages, in all pulls
        self._returned = 0  # of these, not delivered before the pull ended
        self._delivered_before = self._delivered = router.delivered
        self._bytes = max(PULL_BYTES, connection.max_payload + MESSAGE_OVERHEAD_BYTES)
        self._smaller = 0  # on their way, with the bound that turned out to be too low
        self._ping_after_s = PING_AFTER_S * patience
        self._lost_after_s = LOST_AFTER_S * patience
        self._hangs_after_s = max(
            HANGS_AFTER_S * patience, self._ping_after_s + 4 * connection.round_trip_s
        )
        self._looked_at = self._delivered_at = time.monotonic()
        self._silent_s = 0.0
        self._ping = 0
        connection.send(b"SUB %b  %d\r\n" % (self._inbox, STREAM_SID))
        self.request_more(pause=False)

    @property
    def alive(self) -> bool:
        """Whether it has given a sign of life lately."""
        return self._silent_s <= self._ping_after_s

    def unsubscribe(self) -> None:
        self._connection.send(b"UNSUB %d\r\n" % STREAM_SID)

    def request_more(self, *, pause: bool) -> None:
        """Called after every read. Raises ConsumerGone, ConnectionLost."""
        on_their_way = self._on_their_way()
        self._look(on_their_way)
        if pause:
            return
        most = max(1, ALL_PULLS_BYTES // self._bytes) * PULL_MESSAGES
        while on_their_way <= most - PULL_MESSAGES:
            self._pull()
            on_their_way += PULL_MESSAGES

    def _look(self, on_their_way: int) -> None:
        """Raises ConsumerGone or ConnectionLost where nothing was heard for too long."""
        now = time.monotonic()
        self._silent_s += min(now - self._looked_at, LONGEST_LOOK_S)
        self._looked_at = now
        if self._router.delivered != self._delivered:
            self._delivered = self._router.delivered
            self._delivered_at = now
            self._silent_s = 0.0
        if on_their_way <= 0:
            self._silent_s = 0.0  # nothing is asked for, so nothing needs to come
        if self._silent_s <= self._ping_after_s:
            self._ping = 0
        elif self._ping == 0:
            self._ping = self._connection.send_ping()
        elif self._connection.pongs < self._ping:
            if self._silent_s > self._hangs_after_s:
                raise self._connection.hangs(self._silent_s)
        elif self._silent_s > self._lost_after_s:
            raise ConsumerGone(f"no heartbeat of the consumer for {self._silent_s:.1f} s")

    def _on_their_way(self) -> int:
        return self._asked - self._returned - (self._router.delivered - self._delivered_before)

    def _pull(self) -> None:
        body = b'{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}' % (
            PULL_MESSAGES,
            self._bytes,
            PULL_EXPIRES_S * 10**9,
            HEARTBEAT_S * 10**9,
        )
        self._connection.send(
            b"PUB %b %b %d\r\n%b\r\n" % (self._next, self._inbox, len(body), body)
        )
        self._asked += PULL_MESSAGES

    def status(self, headers: bytes) -> None:
        """A message that is none of the stream's. Raises ConsumerGone."""
        match = re.match(rb"NATS/1\.0 (\d{3}) ?([^\r]*)", headers)
        if match is None:
            return
        code, text = int(match[1]), match[2].decode("ascii", "replace")
        self._silent_s = 0.0
        if code == 100:
            # Pulls wait and nothing comes: what the last delivery said was still there is not.
            idle = self._router.delivered == self._delivered
            if idle and time.monotonic() - self._delivered_at > HEARTBEAT_S / 2:
                self._router.pending = 0
            return
        left = re.search(rb"\r\nNats-Pending-Messages: *(\d+)", headers)
        ended = any(word in text for word in ("Deleted", "Leadership", "Shutdown"))
        if code in (400, 503) or ended or left is None:
            raise ConsumerGone(f"the consumer has ended: {code} {text}".rstrip())
        self._returned += int(left[1])
        if "MaxBytes" in text and int(left[1]) == PULL_MESSAGES:
            # One message alone is larger than a whole pull: max_payload was lowered after it came.
            # All that wait say so; the bound is raised once for them all.
            if self._smaller > 0:
                self._smaller -= 1
            else:
                self._smaller = -(-self._on_their_way() // PULL_MESSAGES)
                self._bytes *= 2
