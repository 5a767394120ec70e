"""Fed by a stream: a pull consumer, and a position that is ours."""

from __future__ import annotations

import logging
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

from alarmdigest._ext import events, timestamps
from alarmdigest._ext.events import Router
from alarmdigest.feeds.clock import ArrivalWatch
from alarmdigest.feeds.feed import Feed
from alarmdigest.feeds.gaps import Gaps
from alarmdigest.feeds.where_to_start import Start, where_to_start
from alarmdigest.logs import Fields, LimitedLog
from alarmdigest.nats.answers import StreamInfo, bad_answer, read_stream_info
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import BadAnswer, ConnectionLost, NatsError, StreamMissing
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.streams import StreamKeeper, StreamPlan
from alarmdigest.store.base import Position, Reread

log = logging.getLogger(__name__)

StartOption: TypeAlias = 'Literal["first", "new"] | int'

MIB = 1024 * 1024
# One pull asks for so many messages. A server cuts off a client for which more than 64 MiB are
# pending, so all pulls on their way together ask for at most half of it, unless one message alone
# may be larger.
PULL_MESSAGES = 5000
PULL_BYTES = 8 * MIB
ALL_PULLS_BYTES = 32 * MIB
MESSAGE_OVERHEAD_BYTES = 8 * 1024
PULL_EXPIRES_S = 30
# So many heartbeats may be missing before the consumer is taken for lost. Often they are the only
# sign: a stream that is deleted under traffic may end without a word to those who wait for its
# messages (nats-server 2.15.1), and what is published until it is there again is kept by nobody.
HEARTBEAT_S = 2
HEARTBEATS_MISSED = 2.5
# The server forgets a consumer that nobody pulls from for so long.
CONSUMER_INACTIVE_S = 60


@dataclass(slots=True)
class FeedCounters:
    """What happened to the stream under us; see the metrics for what each means."""

    gone: int = 0
    rolled_back: int = 0
    made_anew: int = 0


class StreamFeed(Feed):
    """A pull consumer of a stream, a new one for every connection; the position is ours.

    The server's consumer state is not used: it counts as delivered what it sent into a connection
    that died. Pulls are asked for in messages and in bytes; how many messages are still to come is
    counted here, since a pull that ends early says how many it left.
    """

    may_drop = False

    def __init__(
        self,
        plan: StreamPlan,
        *,
        create: bool,
        domain: str,
        start: StartOption,
        position: Position | None,
    ) -> None:
        """``position`` is where an earlier run had got to; without one, ``start`` says where."""
        self._plan = plan
        self._keeper = StreamKeeper(plan, create=create)
        self._domain = domain
        self._start = start
        self._kept = position
        self.place_is_fleeting = position is None and start == "new"
        self._created = position.created if position is not None else ""
        self._look = b""
        self._next = b""
        self._inbox = b""
        self._asked = 0  # messages, in all pulls of this connection
        self._returned = 0  # of these, not delivered before the pull ended
        self._delivered_before = 0
        self._delivered = 0
        self._pull_bytes = PULL_BYTES
        self._smaller_pulls = 0  # on their way, with the bound that turned out to be too low
        self._delete = b""
        self._heard_at = 0.0
        self._delivered_at = 0.0
        self._reread_is_on = False
        self._not_answered_before = 0
        self._arrivals = ArrivalWatch()
        self.gaps = Gaps(plan.name)
        self.counters = FeedCounters()
        self._missing = LimitedLog(log, logging.ERROR)

    def open(self, connection: Connection, router: Router) -> None:
        self._kept = self.position(router)
        jetstream = JetStream(connection, domain=self._domain)
        info = self._keeper.ensure(jetstream)
        beginning = where_to_start(
            jetstream, info, self._kept, self._start, newest_ns=router.arrival_ns
        )
        name = f"alarmdigest-{secrets.token_hex(8)}"
        # All subjects, also where the stream has others than ours: with a filter nobody can tell
        # what it leaves out from what is deleted. (And nats-server 2.9 has no such filters.)
        made = jetstream.create_consumer(
            self._plan.name, name=name, start=beginning.at, inactive_s=CONSUMER_INACTIVE_S
        )
        place = self._place_before(jetstream, info, beginning, made, router.stepped_back_ns)
        jetstream.close()
        self._note(beginning, place)
        # A number from here on, whatever the beginning was: it is the same one after a restart,
        # also if nothing comes until then.
        self._kept = place
        self._created = info.created
        router.begin_deliveries(place.sequence, pending=int(made.get("num_pending", 0)))
        router.set_position(place.sequence, place.timestamp_ns)
        router.begin_reread(*(place.reread or (0, 0, 0)))
        self._reread_is_on = place.sequence < router.reread_seq
        prefix = f"$JS.{self._domain}.API" if self._domain else "$JS.API"
        self.gaps.answered(None)
        answers = connection.new_inbox()
        connection.send(f"SUB {answers} {events.ANSWER_SID}\r\n".encode())
        self._look = f"PUB {prefix}.STREAM.INFO.{self._plan.name} {answers} 0\r\n\r\n".encode()
        self._next = f"{prefix}.CONSUMER.MSG.NEXT.{self._plan.name}.{name}".encode()
        self._forget_consumer(connection)
        self._delete = f"{prefix}.CONSUMER.DELETE.{self._plan.name}.{name}".encode()
        self._inbox = connection.new_inbox().encode()
        connection.send(b"SUB %b  %d\r\n" % (self._inbox, events.STREAM_SID))
        self._asked = self._returned = self._smaller_pulls = 0
        self._delivered_before = self._delivered = router.delivered
        self._pull_bytes = max(PULL_BYTES, connection.max_payload + MESSAGE_OVERHEAD_BYTES)
        self._heard_at = self._delivered_at = time.monotonic()
        self.turn(connection, router, pause=False)

    def _place_before(
        self,
        jetstream: JetStream,
        info: StreamInfo,
        beginning: Start,
        made: dict[str, Any],
        stepped_back_ns: int,
    ) -> Position:
        """The last message that the consumer passes over. Raises ConnectionLost if the stream is
        not the one any more that the beginning was found in: its numbers mean nothing there."""
        now = jetstream.stream_info(info.name)
        if now is None or now.created != info.created or now.last_seq < info.last_seq:
            raise ConnectionLost(f"stream {info.name} was made anew while we looked at it")
        try:
            sequence = int(made["delivered"]["stream_seq"])
        except (KeyError, TypeError, ValueError) as error:
            raise bad_answer(made) from error
        timestamp_ns = jetstream.message_time_ns(info.name, sequence) if sequence else 0
        kept = self._kept
        if timestamp_ns is None:  # deleted: what follows must not be older than the one we know
            goes_on = kept is not None and beginning.kind == "continues"
            timestamp_ns = kept.timestamp_ns if goes_on and kept is not None else 0
        reread = kept.reread if kept is not None else None  # one that goes on
        if (last := beginning.last_known) is not None:
            reread = Reread(*last, stepped_back_ns)
        return Position(info.name, info.created, sequence, timestamp_ns, stepped_back_ns, reread)

    def _note(self, beginning: Start, place: Position) -> None:
        """Say and count what the beginning is like; called once the consumer is there."""
        alarming = beginning.gone > 0 or beginning.kind in ("new_stream", "rolled_back")
        log.log(logging.ERROR if alarming else logging.INFO, "%s", beginning.sentence)
        if beginning.last_known is not None:
            sequence, time_ns = beginning.last_known
            log.warning(
                "%s: what was read before is read again, up to message %d at most; requests in it "
                "that are not newer than %s are not answered again",
                self._plan.name,
                sequence,
                timestamps.to_text(time_ns),
            )
        gone = beginning.gone
        if beginning.kind == "continues" and self._kept is not None:
            # The stream may have deleted more until the consumer was there.
            gone = max(gone, place.sequence - self._kept.sequence)
        self.counters.gone += gone
        self.counters.rolled_back += beginning.kind == "rolled_back"
        self.counters.made_anew += beginning.kind == "new_stream"

    def consuming(self, connection: Connection) -> bool:
        return True  # the stream keeps what is published, and open() has asked for it

    def turn(self, connection: Connection, router: Router, *, pause: bool) -> None:
        now = time.monotonic()
        if router.delivered != self._delivered:
            self._delivered = router.delivered
            self._heard_at = self._delivered_at = now
        on_their_way = self._on_their_way(router)
        if on_their_way <= 0:
            self._heard_at = now  # nothing is asked for, so nothing needs to come
        elif now - self._heard_at > HEARTBEAT_S * HEARTBEATS_MISSED:
            raise ConnectionLost(f"{connection.url}: no heartbeat of the consumer")
        self._arrivals.turn(router.arrival_ns)
        if self.gaps.turn(router.take_gap()):
            connection.send(self._look)
        if self._reread_is_on and (router.sequence >= router.reread_seq or router.pending == 0):
            self._end_reread(router)
        if pause:
            return
        most = max(1, ALL_PULLS_BYTES // self._pull_bytes) * PULL_MESSAGES
        while on_their_way <= most - PULL_MESSAGES:
            self._pull(connection)
            on_their_way += PULL_MESSAGES

    def _end_reread(self, router: Router) -> None:
        self._reread_is_on = False
        count = router.not_answered - self._not_answered_before
        self._not_answered_before = router.not_answered
        log.log(
            logging.ERROR if count else logging.INFO,
            "%s: what may have been read before ends with message %d; %d requests among it were "
            "not answered again: what is due comes with the next request of each user",
            self._plan.name,
            router.sequence,
            count,
        )

    def _on_their_way(self, router: Router) -> int:
        return self._asked - self._returned - (router.delivered - self._delivered_before)

    def _pull(self, connection: Connection) -> None:
        body = b'{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}' % (
            PULL_MESSAGES,
            self._pull_bytes,
            PULL_EXPIRES_S * 10**9,
            HEARTBEAT_S * 10**9,
        )
        connection.send(b"PUB %b %b %d\r\n%b\r\n" % (self._next, self._inbox, len(body), body))
        self._asked += PULL_MESSAGES

    def status(self, headers: bytes, router: Router) -> None:
        match = re.match(rb"NATS/1\.0 (\d{3}) ?([^\r]*)", headers)
        if match is None:
            with suppress(ValueError, BadAnswer):
                self.gaps.answered(read_stream_info(orjson.loads(headers)).first_seq)
            return
        code, text = int(match[1]), match[2].decode("ascii", "replace")
        now = self._heard_at = time.monotonic()
        if code == 100:
            # Pulls wait and nothing comes: what the last delivery said was still there is not.
            idle = router.delivered == self._delivered
            if idle and now - self._delivered_at > HEARTBEAT_S / 2:
                router.pending = 0
            return
        left = re.search(rb"\r\nNats-Pending-Messages: *(\d+)", headers)
        if code in (400, 503) or "Deleted" in text or left is None:
            raise ConnectionLost(f"the consumer of {self._plan.name} is gone: {code} {text}")
        self._returned += int(left[1])
        if "MaxBytes" in text and int(left[1]) == PULL_MESSAGES:
            # One message alone is larger than a whole pull: max_payload was lowered after it came.
            # All that wait say so; the bound is raised once for them all.
            if self._smaller_pulls > 0:
                self._smaller_pulls -= 1
            else:
                self._smaller_pulls = -(-self._on_their_way(router) // PULL_MESSAGES)
                self._pull_bytes *= 2

    def stop(self, connection: Connection) -> None:
        """What is on its way is read by the next start."""
        self._forget_consumer(connection)

    def _forget_consumer(self, connection: Connection) -> None:
        """The server need not keep it until it is seen to be inactive; an answer is not needed."""
        if self._delete:
            connection.send(b"PUB %b 0\r\n\r\n" % self._delete)
        self._delete = b""

    def stopped(self, connection: Connection) -> bool:
        return True

    def position(self, router: Router) -> Position | None:
        if router.sequence == 0:
            return self._kept
        reread = None
        if router.sequence < router.reread_seq:
            reread = Reread(router.reread_seq, router.reread_ns, router.reread_stepped_back_ns)
        return Position(
            self._plan.name,
            self._created,
            router.sequence,
            router.timestamp_ns,
            router.stepped_back_ns,
            reread,
        )

    def lost(self, reason: NatsError) -> None:
        self.gaps.answered(None)
        if isinstance(reason, StreamMissing):
            self._missing("nothing keeps what is published now", reason=reason)
        else:
            log.warning("connection lost%s", Fields(name="alarmdigest", reason=reason))
