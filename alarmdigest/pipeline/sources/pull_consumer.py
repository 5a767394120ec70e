"""Fed by a stream: a pull consumer, and a position that is ours."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeAlias

from alarmdigest._ext.router import Router
from alarmdigest.nats.answers import StreamInfo, bad_answer, read_stream_info
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import (
    BadAnswer,
    ConnectionLost,
    ConsumerGone,
    JetStreamError,
    NatsError,
    NoAnswer,
    StreamConflict,
    StreamMissing,
)
from alarmdigest.nats.jetstream import (
    INACTIVE_TOO_LONG,
    TOO_MANY_CONSUMERS,
    JetStream,
    consumer_request,
)
from alarmdigest.nats.stream_configs import StreamConfig
from alarmdigest.nats.streams import StreamKeeper
from alarmdigest.pipeline.sources.clock import ArrivalWatch
from alarmdigest.pipeline.sources.leader import LeaderReads, LeaderWatch
from alarmdigest.pipeline.sources.pulls import Pulls
from alarmdigest.pipeline.sources.questions import Questions
from alarmdigest.pipeline.sources.source import Source
from alarmdigest.pipeline.sources.start_position import ReadFrom, where_to_start
from alarmdigest.pipeline.sources.stream_history import StreamHistory
from alarmdigest.runtime.counters import Counter
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.state.position import Reread, StreamPosition

log = logging.getLogger(__name__)

StartOption: TypeAlias = 'Literal["first", "new"] | int'

# The server forgets a consumer that nobody pulls from for so long.
CONSUMER_INACTIVE_S = 60
# All consumers are made by the leader of the whole cluster. When it does not answer for so long,
# the stream is read from its own leader until it does.
CREATE_TIMEOUT_S = 0.25
# Where a server is about to end, it would get the new consumer as well: so long the stream's leader
# is read before another one is made.
SETTLES_AFTER_S = 1.5
# The old consumer was told to go; what counts them may learn of it a moment later.
TOO_MANY_PAUSE_S = 0.1
TOO_MANY_TRIES = 5
CREATE_AGAIN_AFTER_S = 20.0
# The leader has had a message for so long that no consumer has brought: the copy of the
# stream lags that the consumer reads.
LAGS_AFTER_S = 1.5
# A consumer that is silent again and again, each time within GOOD_AFTER_S, is given more time.
GOOD_AFTER_S = 5.0
MOST_PATIENCE = 8.0


class PullConsumerSource(Source):
    """A pull consumer of a stream, a new one for every connection or loss; the position is ours.

    The server's consumer state is used for where a new one begins, and for nothing else: it counts
    as delivered what it sent into a connection that died.
    """

    lossy = False

    def __init__(
        self,
        config: StreamConfig,
        *,
        create: bool,
        domain: str,
        start: StartOption,
        position: StreamPosition | None,
    ) -> None:
        """``position`` is where an earlier run had got to; without one, ``start`` says where."""
        self._config = config
        self._keeper = StreamKeeper(config, create=create)
        self._domain = domain
        self._start_option = start
        self._known_position = position
        self.start_not_replayable = position is None and start == "new"
        self._created = position.created if position is not None else ""
        self._prefix = f"$JS.{domain}.API" if domain else "$JS.API"
        self._pulls: Pulls | None = None
        self._reads: LeaderReads | None = None
        self._questions: Questions | None = None
        self._watch: LeaderWatch | None = None
        self._patience = 1.0
        self._opened_at = 0.0
        self._create_again_at = math.inf
        self._settled_at = 0.0
        self._ask_for_consumer: Callable[[], None] | None = None
        self._reread_is_on = False
        self._arrivals = ArrivalWatch()
        self.history = StreamHistory(config.name)
        self._paused = False
        self._consumers: list[str] = []  # the one in use, and those not yet known to be deleted
        self._missing = LimitedLog(log, logging.ERROR)
        self._trouble = LimitedLog(log, logging.ERROR)
        self._slow = LimitedLog(log, logging.WARNING)

    def open(self, connection: Connection, router: Router, received: bytes | None) -> None:
        self._known_position = self.position(router)
        if received is not None:
            if self._pulls is not None:
                self._pulls.unsubscribe()
            if self._questions is not None:
                self._questions.close()
        self._pulls = self._reads = self._questions = self._watch = None
        self._ask_for_consumer = None
        # A stream may allow so many consumers only: the old one goes first.
        self._forget_consumers(connection)
        jetstream = JetStream(connection, domain=self._domain, received=received)
        try:
            self._open(connection, jetstream, router)
        except ConnectionLost:
            raise
        except NatsError:
            jetstream.drop()
            raise

    def _open(self, connection: Connection, jetstream: JetStream, router: Router) -> None:
        info = self._keeper.ensure(jetstream)
        start = where_to_start(
            jetstream, info, self._known_position, self._start_option, newest_ns=router.arrival_ns
        )
        name = f"alarmdigest-{secrets.token_hex(8)}"
        # All subjects, also where the stream has others than ours: with a filter nobody can tell
        # what it leaves out from what is deleted. (And nats-server 2.9 has no such filters.)
        create, body = consumer_request(
            self._config.name, name=name, start=start.at, inactive_s=CONSUMER_INACTIVE_S
        )
        patience_s = max(CREATE_TIMEOUT_S, 3 * connection.round_trip_s)
        # Of those that nobody could tell us are gone, the newest: the server forgets them all soon.
        old, self._consumers = self._consumers, [*self._consumers[-7:], name]
        made = self._create(jetstream, create, body, start, patience_s)
        if made is None:
            assert self._known_position is not None
            position = self._known_position
        else:
            position = self._position_before(jetstream, info, start, made, router.stepped_back_ns)
        jetstream.drop()
        self.history.started(start, self._known_position, position)
        # A number from here on, whatever the start was: it is the same one after a restart,
        # also if nothing comes until then.
        self._known_position = position
        self._created = info.created
        pending = _pending(made or {})
        router.begin_deliveries(position.sequence, position.timestamp_ns, pending=pending)
        router.begin_reread(*(position.reread or (0, 0, 0)))
        self._reread_is_on = position.sequence < router.reread_seq
        self.history.gaps.report(None)
        self._opened_at = time.monotonic()
        self._create_again_at = math.inf
        self._questions = Questions(connection, router, prefix=self._prefix)
        self._watch = LeaderWatch(self._questions, router, info)
        # The leader of the cluster may not have been there to be told.
        for gone in old:
            what = f"CONSUMER.DELETE.{self._config.name}.{gone}"
            self._questions.ask(what, {}, partial(self._deleted, gone))
        if made is not None:
            self._pull_from(connection, router, name)
            return
        self._reads = LeaderReads(self._questions, router, self._config.name)
        self._ask_for_consumer = partial(
            self._questions.ask, create, body, partial(self._created_late, connection, router)
        )

    def _create(
        self,
        jetstream: JetStream,
        what: str,
        body: dict[str, Any],
        start: ReadFrom,
        patience_s: float,
    ) -> dict[str, Any] | None:
        """Make the consumer; None when the stream must be read without one for now."""
        goes_on = start.kind == "continues"
        if goes_on and time.monotonic() < self._settled_at:
            return None
        for left in range(TOO_MANY_TRIES, -1, -1):
            try:
                return jetstream.request(what, body, timeout_s=patience_s if goes_on else None)
            except NoAnswer as error:
                if not goes_on:
                    raise
                reason = str(error)
            except JetStreamError as error:
                if error.err_code == INACTIVE_TOO_LONG and left:
                    # Without a limit of our own we get the one of the stream's consumer_limits.
                    body["config"].pop("inactive_threshold", None)
                    continue
                if error.err_code not in TOO_MANY_CONSUMERS:
                    raise
                if left:
                    time.sleep(TOO_MANY_PAUSE_S)
                    continue
                reason = (
                    f"{error}; raise max_consumers of stream {self._config.name} or of our account "
                    f"(nats stream edit {self._config.name} --max-consumers …), or remove another "
                    f"consumer (nats consumer ls {self._config.name})"
                )
                if not goes_on:
                    raise StreamConflict(reason) from error
            break
        self._slow("no consumer can be made: the stream's leader is read until then", reason=reason)
        return None

    def _created_late(
        self, connection: Connection, router: Router, answer: dict[str, Any] | JetStreamError
    ) -> None:
        if isinstance(answer, JetStreamError):
            # Too many of them: its leader is read until the next try.
            self._create_again_at = time.monotonic() + CREATE_AGAIN_AFTER_S
            return
        log.info("%s: a consumer could be made again", self._config.name)
        self._reads = None
        pending = _pending(answer)
        router.begin_deliveries(router.sequence, router.timestamp_ns, pending=pending)
        self._pull_from(connection, router, str(answer.get("name")))

    def _pull_from(self, connection: Connection, router: Router, name: str) -> None:
        self._pulls = Pulls(
            connection,
            router,
            next_subject=f"{self._prefix}.CONSUMER.MSG.NEXT.{self._config.name}.{name}",
            patience=self._patience,
        )

    def _position_before(
        self,
        jetstream: JetStream,
        info: StreamInfo,
        start: ReadFrom,
        made: dict[str, Any],
        stepped_back_ns: int,
    ) -> StreamPosition:
        """The last message that the consumer passes over. Raises ConnectionLost if the stream is
        not the one any more that the start was found in: its numbers mean nothing there."""
        now = jetstream.stream_info(info.name)
        if now is None or now.created != info.created or now.last_seq < info.last_seq:
            raise ConnectionLost(f"stream {info.name} was recreated while we looked at it")
        try:
            sequence = int(made["delivered"]["stream_seq"])  # of a new one: that before its first
        except (KeyError, TypeError, ValueError) as error:
            raise bad_answer(made) from error
        timestamp_ns = jetstream.message_time_ns(info.name, sequence) if sequence else 0
        known = self._known_position
        if timestamp_ns is None:  # deleted: what follows must not be older than the one we know
            goes_on = known is not None and start.kind == "continues"
            timestamp_ns = known.timestamp_ns if goes_on and known is not None else 0
        reread = known.reread if known is not None else None  # one that goes on
        if (last := start.last_known) is not None:
            reread = Reread(*last, stepped_back_ns)
        return StreamPosition(
            info.name, info.created, sequence, timestamp_ns, stepped_back_ns, reread
        )

    def consuming(self, connection: Connection) -> bool:
        return True  # the stream keeps what is published, and open() has asked for it

    def hear(self, connection: Connection, router: Router) -> None:
        if self._questions is not None:
            self._questions.hear()
        if self._reads is not None:
            self._reads.request_more(pause=self._paused)

    def request_more(self, connection: Connection, router: Router, *, pause: bool) -> None:
        self._paused = pause
        if self._questions is not None and self._watch is not None:
            self._questions.ask_again()
            self._watch.check(expecting=self._pulls is not None and not pause)
            if self.history.gaps.on_read(router.take_gap()):
                self._questions.ask(f"STREAM.INFO.{self._config.name}", {}, self._begins_at)
        self._arrivals.check(router.arrival_ns)
        nothing_left = router.pending == 0 and self._reads is None
        if self._reread_is_on and (router.sequence >= router.reread_seq or nothing_left):
            self._reread_is_on = False
            self.history.reread_ended(router)
        if self._pulls is not None:
            try:
                self._pulls.request_more(pause=pause)
            except (ConnectionLost, ConsumerGone):
                self._be_patient()
                raise
            if self._watch is not None and self._watch.missing_s > LAGS_AFTER_S:
                self._be_patient()
                raise ConsumerGone("the consumer's server lags behind the leader of the stream")
        elif self._ask_for_consumer is not None and time.monotonic() >= self._settled_at:
            self._ask_for_consumer()
            self._ask_for_consumer = None
        elif time.monotonic() > self._create_again_at:
            raise ConsumerGone("there is none yet")

    def _begins_at(self, answer: dict[str, Any] | JetStreamError) -> None:
        """What the stream's leader says of its first message, for the gaps."""
        if isinstance(answer, JetStreamError):
            return
        with suppress(BadAnswer):
            self.history.gaps.report(read_stream_info(answer).first_seq)

    def _be_patient(self) -> None:
        """A consumer was lost in silence: one that lasted shows that it was no misjudgement."""
        lasted = time.monotonic() - self._opened_at > GOOD_AFTER_S
        self._patience = 1.0 if lasted else min(self._patience * 2, MOST_PATIENCE)

    def behind(self, router: Router) -> int | None:
        """As the leader of the stream sees it: what a consumer says ends where its server ends."""
        pulls, watch = self._pulls, self._watch
        if watch is None or watch.behind is None or (pulls is not None and not pulls.alive):
            return None
        return max(watch.behind, router.pending)

    def status(self, headers: bytes, router: Router) -> None:
        if self._pulls is None:
            return
        try:
            self._pulls.status(headers)
        except ConsumerGone as gone:
            if "Shutdown" in str(gone) or "Leadership" in str(gone):
                self._settled_at = time.monotonic() + SETTLES_AFTER_S
            raise

    def stop(self, connection: Connection) -> None:
        """What is on its way is read by the next start."""
        self._forget_consumers(connection)

    def _forget_consumers(self, connection: Connection) -> None:
        """The server need not keep them until they are seen to be inactive."""
        for name in self._consumers:
            what = f"{self._prefix}.CONSUMER.DELETE.{self._config.name}.{name}"
            connection.send(b"PUB %b 0\r\n\r\n" % what.encode())

    def _deleted(self, name: str, _answer: object) -> None:
        if name in self._consumers:
            self._consumers.remove(name)

    def stopped(self, connection: Connection) -> bool:
        return True

    def position(self, router: Router) -> StreamPosition | None:
        if router.sequence == 0:
            return self._known_position
        reread = None
        if router.sequence < router.reread_seq:
            reread = Reread(router.reread_seq, router.reread_ns, router.reread_stepped_back_ns)
        return StreamPosition(
            self._config.name,
            self._created,
            router.sequence,
            router.timestamp_ns,
            router.stepped_back_ns,
            reread,
        )

    def losses(self, router: Router) -> dict[str, int]:
        return self.history.losses(router)

    @property
    def expired_unread(self) -> int:
        return self.history.expired_unread

    @property
    def stream_changes(self) -> dict[str, int]:
        return self.history.changes

    def counters(self, router: Router) -> list[Counter]:
        return self.history.counters(router)

    def on_disconnect(self, reason: NatsError) -> None:
        self.history.gaps.report(None)
        if isinstance(reason, StreamMissing):
            self._missing("nothing keeps what is published now", reason=reason)
        elif isinstance(reason, ConnectionLost):
            log.warning("connection lost%s", Fields(name="alarmdigest", reason=reason))
        elif isinstance(reason, ConsumerGone):
            log.warning("consumer lost, making another%s", Fields(reason=reason))
        elif isinstance(reason, NoAnswer):
            log.warning("JetStream does not answer, asking again%s", Fields(reason=reason))
        else:
            self._trouble("JetStream does not do what we ask, trying again", reason=reason)


def _pending(consumer: dict[str, Any]) -> int:
    """How many messages wait for a consumer, by the server's answer; 0 where it does not say."""
    found = consumer.get("num_pending")
    return found if isinstance(found, int) and found >= 0 else 0
