"""The group's thread: tells the others of us in beats, hears theirs, and asks us to stand.

It has a connection of its own, so that neither a long read of the listener's nor a write of the
publisher's keeps us from being heard.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import orjson

from alarmdigest._ext import frames
from alarmdigest.nats.answers import read_stored_message
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import BadAnswer, ConnectionLost, JetStreamError, NatsError
from alarmdigest.nats.jetstream import NO_MESSAGE, JetStream, read_answer
from alarmdigest.nats.receive_buffer import ReceiveBuffer
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.replication.election import NO_ELECTION, read_election
from alarmdigest.replication.exchange import Exchange, Identity
from alarmdigest.replication.heard_words import HeardWords
from alarmdigest.replication.membership import Beat, Membership, NameTaken
from alarmdigest.replication.snapshot_request import asks_for_snapshot
from alarmdigest.replication.step_down import StepDown
from alarmdigest.replication.subjects import (
    BEATS,
    GROUP_STREAM,
    MAX_BEAT_BYTES,
    beat_subject,
    control_subject,
    group_stream_config,
    leader_subject,
)
from alarmdigest.runtime.logs import Fields, LimitedLog, Untrusted
from alarmdigest.runtime.service_thread import ServiceThread
from alarmdigest.settings import SettingsError

log = logging.getLogger(__name__)

BEATS_SID = 7
ANSWERS_SID = 8
CONTROL_SID = 9
TICK_S = 0.02
#: Where nothing is about to happen.
IDLE_TICK_S = 0.1
ANSWER_TIMEOUT_S = 1.0
#: A consumer that has given nothing for so long, our own beats included, is replaced.
SILENCE_S = 2.0
CONSUMER_INACTIVE_S = 30.0
#: The publisher says several times a second whether it waits for the leader.
WAITS_FOR_S = 2.0
#: A wish to stand that the publisher has not come to in time is none any more.
STAND_WITHIN_S = 2.0
#: Who leads is also asked for now and then: the leader may not know that it was deposed.
ASK_EVERY_S = 2.0
#: So soon where a beat claims a leader message that we do not know.
CLAIMS_EVERY_S = 0.05


class Group(ServiceThread):
    """Runs until ``stop()``. ``membership`` may be read by any thread.

    ``heard`` is set once our own beat has come back.
    """

    def __init__(
        self,
        reconnector: Reconnector,
        identity: Identity,
        exchange: Exchange,
        *,
        digests_stream: str,
        domain: str,
        stream_replicas: int,
        position: Callable[[], int],
        ready: Callable[[], bool],
        missed: Callable[[], bool],
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        """``position`` and ``ready`` tell how far the input was read, and whether we could lead;
        ``missed``, whether input was deleted before we read it."""
        super().__init__("group", on_failure)
        self.reconnector = reconnector
        self.identity = identity
        self.membership = Membership(identity.name, identity.incarnation, identity.priority)
        self.heard = threading.Event()
        self.exchange = exchange
        self._digests_stream = digests_stream
        self._domain = domain
        self._stream_replicas = stream_replicas
        self._position = position
        self._ready = ready
        self._missed = missed
        self._stopping = threading.Event()
        self._resigning = False
        self._prefix = f"$JS.{domain}.API" if domain else "$JS.API"
        self._subject = beat_subject(identity.group, identity.name).encode()
        self._inbox = b""
        self._buffer = ReceiveBuffer()
        self._said = 0, -1
        self._asked_at = 0.0
        self._answered_at = 0.0
        self._asks_to_stand = False
        self._was_standing = False
        self._words = HeardWords(exchange, self.membership)
        self._heard_at = 0.0
        self._step_down = StepDown(identity.name)
        self._trouble = LimitedLog(log, logging.WARNING)

    # -- called from other threads ---------------------------------------------------------------

    def stop(self) -> None:
        self._stopping.set()
        self.exchange.news.wake()

    def resign(self) -> None:
        """Never lead again; while we still do, name the readiest one as successor in every beat."""
        self._resigning = True
        self.exchange.news.wake()

    def makes_snapshots(self) -> bool:
        """Whether that is our business just now."""
        return self.membership.makes_snapshots(self._our_beat(0))

    # -- the loop --------------------------------------------------------------------------------

    def work(self) -> None:
        while not self._stopping.is_set():
            connection = self.reconnector.connect_with_backoff(self._go_on)
            if connection is None:
                return
            try:
                self._serve(connection)
            except NameTaken as taken:
                raise SettingsError(str(taken)) from taken
            except (NatsError, frames.ProtocolError) as lost:
                self.reconnector.last_error = str(lost)
                if not self._stopping.is_set():
                    self._trouble("the group cannot be heard", reason=lost)
                    if isinstance(lost, ConnectionLost):
                        self.reconnector.avoid(connection)
                    self._stopping.wait(0.1)
            finally:
                connection.close()

    def _go_on(self) -> bool:
        self.sign_of_life()
        return not self._stopping.is_set()

    def _serve(self, connection: Connection) -> None:
        """Raises NatsError, ProtocolError, NameTaken."""
        self._listen(connection)
        connection.watch(self.exchange.news.fileno())
        while self._go_on():
            tick_s = TICK_S if self._is_busy else IDLE_TICK_S
            received = self._buffer.receive(connection, tick_s)
            self.exchange.news.clear()
            if received:
                self._take(connection)
            now = time.monotonic()
            if now - self._heard_at > SILENCE_S:
                raise ConnectionLost(f"{connection.url}: {GROUP_STREAM} gives nothing to read")
            self._beat_when_due(connection, now)
            self._stand_when_due(connection, now)
            self._answer_when_down(connection, now)
            connection.keep_alive()
        self._say_goodbye(connection)

    def _say_goodbye(self, connection: Connection) -> None:
        """Nobody need wait to find out that we are gone."""
        beat = self._our_beat(self.membership.next_number(time.monotonic()))
        about = {**beat.about, "stopped": True}
        self._send_beat(connection, replace(beat, token=0, ready=False, about=about))

    @property
    def _is_busy(self) -> bool:
        """Whether something is to be done within some hundredths of a second."""
        exchange, membership = self.exchange, self.membership
        if exchange.token:
            return self._wants_successor or self._said != (exchange.token, exchange.word.through)
        return membership.leader_is_suspected or membership.claimed_token > membership.token

    def _listen(self, connection: Connection) -> None:
        """See that the stream is there, and have every beat sent to us from now on, the newest of
        each replica first."""
        self._inbox = connection.new_inbox().encode()
        subscriptions = b"SUB %b.beats %d\r\nSUB %b.answers %d\r\nSUB %b %d\r\n"
        control = control_subject(self.identity.group).encode()
        connection.send(
            subscriptions % (self._inbox, BEATS_SID, self._inbox, ANSWERS_SID, control, CONTROL_SID)
        )
        js = JetStream(connection, domain=self._domain, timeout_s=ANSWER_TIMEOUT_S, received=b"")
        if js.stream_info(GROUP_STREAM) is None:
            js.create_stream(group_stream_config(self._stream_replicas))
        name = f"{self.identity.name}-{secrets.token_hex(6)}"
        config = {
            "name": name,
            "deliver_subject": f"{self._inbox.decode()}.beats",
            "deliver_policy": "last_per_subject",
            "filter_subjects": [f"{BEATS}.{self.identity.group}.>"],
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": round(CONSUMER_INACTIVE_S * 1e9),
        }
        body = {"stream_name": GROUP_STREAM, "config": config, "action": "create"}
        js.request(f"CONSUMER.CREATE.{GROUP_STREAM}.{name}", body)
        self._buffer.begin(js.close())
        self._heard_at = time.monotonic()
        self._asked_at = 0.0

    def _take(self, connection: Connection) -> None:
        found, position = frames.scan(self._buffer.data, 0, self._buffer.filled)
        # Others may write to the stream, too: whatever the server takes has to pass.
        self._buffer.drop_before(connection, position)
        for kind, sid, _subject, reply, _headers, payload in found:
            if kind not in (frames.MSG, frames.HMSG):
                if kind == frames.INFO:
                    self.reconnector.learn(connection)
                if refused := connection.handle(kind, payload):
                    self._trouble("the server does not let us take part", reason=refused)
            elif sid == BEATS_SID:
                self._hear(payload)
            elif sid == ANSWERS_SID:
                self._on_last_election(payload)
            elif sid == CONTROL_SID and reply:
                self._on_request(connection, payload, reply)

    def _on_request(self, connection: Connection, payload: bytes, reply: bytes) -> None:
        if asks_for_snapshot(payload):
            if self.exchange.keeps_snapshots and self.makes_snapshots():
                self.exchange.snapshot_asked_at = time.monotonic()
                connection.send(b"PUB %b 2\r\n{}\r\n" % reply)
        elif self.exchange.token:  # only the leader answers
            self._step_down.on_request(payload, reply, time.monotonic())

    def _hear(self, payload: bytes) -> None:
        try:
            if len(payload) > MAX_BEAT_BYTES:
                raise ValueError(f"it has {len(payload)} bytes")
            beat = Beat.from_json(orjson.loads(payload))
        except ValueError as error:
            self._trouble("a beat that cannot be read", reason=error)
            return
        now = time.monotonic()
        rounds = self.membership.rounds
        self.membership.hear(beat, now)
        self._heard_at = now
        if self.membership.rounds > rounds:
            self.heard.set()
        self._words.on_beat(beat)
        if self.membership.claimed_token > self.membership.token:
            self._asked_at = min(self._asked_at, now - CLAIMS_EVERY_S)

    def _answer_when_down(self, connection: Connection, now: float) -> None:
        leader = self.membership.leader
        answer = self._step_down.answer(
            now, leads=self.exchange.token > 0, leader=leader.beat.name if leader else ""
        )
        if answer is not None:
            reply, body = answer
            connection.send(b"PUB %b %d\r\n%b\r\n" % (reply, len(body), body))

    # -- beats -------------------------------------------------------------------------------------

    @property
    def _wants_successor(self) -> bool:
        exchange = self.exchange
        return (
            self._resigning
            or bool(exchange.diverged)
            or exchange.stuck
            or self._step_down.pending
            or self.membership.asked_to_resign(exchange.token)
        )

    def _our_beat(self, number: int) -> Beat:
        exchange, identity = self.exchange, self.identity
        successor = ""
        if exchange.token and self._wants_successor:
            successor = self._step_down.to or self.membership.readiest()
        return Beat(
            name=identity.name,
            incarnation=identity.incarnation,
            number=number,
            priority=identity.priority,
            token=exchange.token,
            position=self._position(),
            ready=self._ready(),
            may_not_lead=bool(exchange.diverged or exchange.in_doubt),
            successor=successor,
            word=exchange.word,
            progress=exchange.progress,
            full=exchange.full,
            missed=self._missed(),
            resign=self.membership.should_resign,
            agreed=exchange.agreed,
            differs_at=exchange.differs_at,
            own=exchange.own,
            distrusts=exchange.distrusts,
            paces=self.membership.paces,
            about={**identity.about, "diverged": exchange.diverged},
        )

    def _beat_when_due(self, connection: Connection, now: float) -> None:
        exchange, membership = self.exchange, self.membership
        said = exchange.token, exchange.word.through
        news = exchange.token > 0 and (said != self._said or self._wants_successor)
        news = news or exchange.token != self._said[0]
        if not membership.beat_due(now, hurry=news):
            return
        membership.note_token(exchange.token)
        beat = self._our_beat(membership.next_number(now))
        self._said = beat.token, beat.word.through
        self._send_beat(connection, beat)

    def _send_beat(self, connection: Connection, beat: Beat) -> None:
        body = orjson.dumps(beat.to_json())
        connection.send(b"PUB %b %d\r\n%b\r\n" % (self._subject, len(body), body))

    # -- standing ----------------------------------------------------------------------------------

    def _stand_when_due(self, connection: Connection, now: float) -> None:
        exchange, membership = self.exchange, self.membership
        membership.distrusts = exchange.distrusts
        answers = now - self._answered_at < ASK_EVERY_S + ANSWER_TIMEOUT_S
        doubtful = bool(exchange.diverged) or exchange.in_doubt
        # Where our own publisher hangs, its leader is not to blame.
        waits = now - exchange.waits_at < WAITS_FOR_S
        membership.watch_leader(waits=waits and answers and not doubtful)
        if self._was_standing and not exchange.stands:
            self._was_standing = False
            if exchange.stood:  # else the wish has lapsed, and may be had again
                membership.stood(now, elected=exchange.token > 0)
        if exchange.stands and now > exchange.stand_until + STAND_WITHIN_S and not exchange.token:
            exchange.stands = False  # the publisher has not come to it
        held = exchange.stands or self._was_standing or self._resigning or exchange.diverged
        wants = not held and membership.should_stand(self._our_beat(0), now)
        if wants and not self._asks_to_stand:
            self._asks_to_stand = True
            self._asked_at = 0.0
        pause = ANSWER_TIMEOUT_S if self._asks_to_stand else ASK_EVERY_S
        if membership.claimed_token > membership.token:
            pause = CLAIMS_EVERY_S
        if now - self._asked_at >= pause:
            self._asked_at = now
            self._ask_for_last_election(connection)

    def _ask_for_last_election(self, connection: Connection) -> None:
        body = orjson.dumps({"last_by_subj": leader_subject(self.identity.group)})
        what = f"{self._prefix}.STREAM.MSG.GET.{self._digests_stream}".encode()
        connection.send(b"PUB %b %b.answers %d\r\n%b\r\n" % (what, self._inbox, len(body), body))

    def _on_last_election(self, payload: bytes) -> None:
        """The stream's leader says who published the last leader message."""
        try:
            answer = read_answer(payload, "STREAM.MSG.GET")
            if answer is None:
                return
            last = read_election(read_stored_message(answer))
        except JetStreamError as error:
            if error.err_code != NO_MESSAGE:
                return  # there is no leader now; it is asked again
            last = NO_ELECTION
        except BadAnswer as error:
            self._trouble("a leader message that cannot be read", reason=error)
            return
        membership, exchange = self.membership, self.exchange
        self._answered_at = time.monotonic()
        known = membership.token
        membership.note_last_election(last.sequence)
        if last.sequence > known and not exchange.token:
            exchange.stand_until = 0.0
        self._words.on_last_election()
        if last.incarnation != self.identity.incarnation:
            if last.sequence > known:
                told = Fields(name=Untrusted(last.name), token=last.sequence)
                log.info("another replica was elected%s", told)
            exchange.last_of_others = last.sequence
            exchange.heed.wake()
        if not self._asks_to_stand:
            return
        self._asks_to_stand = False
        if last.sequence > known:
            return  # another was elected meanwhile, and is given time to be heard of
        told = Fields(group=self.identity.group, because=membership.why_to_stand)
        log.info("standing for leader%s", told)
        self._was_standing = True
        exchange.stands, exchange.stood = True, False
        exchange.stand_until = time.monotonic() + STAND_WITHIN_S
        exchange.stand_asked += 1
        exchange.heed.wake()
