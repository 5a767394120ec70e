"""The questions of an election, put to JetStream (``replication/leadership.py`` asks them)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from alarmdigest.nats.errors import JetStreamError, NatsError, NoAnswer
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.inflight.stored_ids import StoredIdsReader
from alarmdigest.replication.election import find_last_election, publish_election
from alarmdigest.replication.exchange import Exchange, Identity
from alarmdigest.replication.leadership import (
    Answer,
    Asking,
    Done,
    LastElection,
    Leadership,
    PublishElection,
    Question,
    ReadOutput,
    Unknown,
)
from alarmdigest.runtime import failpoints
from alarmdigest.runtime.logs import LimitedLog

log = logging.getLogger(__name__)

#: Between two questions of an election that was not answered.
ASK_AGAIN_S = 0.1
#: An election without an answer for so long is given up, whoever stands; another may be begun.
GIVE_UP_AFTER_S = 10.0
#: One that was elected and reads nothing new for so long has another one elected.
STUCK_AFTER_S = 2.0

TakeFound: TypeAlias = Callable[[StoredIdsReader, int], None]
Meant: TypeAlias = tuple[str, str]


class Candidacy:
    """``stream`` and ``domain`` are those of the digest stream. ``told`` is what a leader message
    says beside who we are. Belongs to the publisher's thread."""

    def __init__(
        self,
        leadership: Leadership,
        exchange: Exchange,
        reconnector: Reconnector,
        stream: str,
        domain: str,
        identity: Identity,
        told: dict[str, Any],
    ) -> None:
        self._leadership = leadership
        self._exchange = exchange
        self._reconnector = reconnector
        self._stream = stream
        self._domain = domain
        self._identity = identity
        self._told = told
        # Of the reading as the leader with this token: how far it has come at most, and since when.
        self._reads_for = self._furthest = 0
        self._moved_at = 0.0
        self._trouble = LimitedLog(log, logging.ERROR)

    def ask(
        self,
        asking: Asking,
        meant: Meant,
        take_found: TakeFound,
        go_on: Callable[[], bool],
    ) -> bool | None:
        """Put the questions of an election; its outcome, None if we shall not go on.

        ``meant`` are the stream and the domain that must answer. ``take_found`` takes in the ids
        that were read up to the leader message with the given sequence.
        """
        answered_at = time.monotonic()
        question = next(asking)
        while True:
            answer = self._answer(question, meant, take_found, go_on)
            if not go_on():
                return None
            if not isinstance(answer, Unknown):
                answered_at = time.monotonic()
            elif time.monotonic() - answered_at > GIVE_UP_AFTER_S:
                log.warning("an election was not answered, and is given up")
                self._leadership.step_down()
                return False
            else:
                time.sleep(ASK_AGAIN_S)
            try:
                question = asking.send(answer)
            except StopIteration as end:
                return bool(end.value)

    def _answer(
        self,
        question: Question,
        meant: Meant,
        take_found: TakeFound,
        go_on: Callable[[], bool],
    ) -> Answer:
        try:
            if isinstance(question, ReadOutput):
                return self._read_output(question, take_found, go_on)
            connection = self._reconnector.connect_with_backoff(go_on)
            if connection is None:
                return Unknown()
            try:
                js = JetStream(connection, domain=self._domain, timeout_s=1.0)
                if isinstance(question, PublishElection):
                    return publish_election(js, question, self._identity, self._told, meant)
                last = find_last_election(js, self._stream, self._identity.group)
                return LastElection(last.sequence, last.nonce)
            except NoAnswer:
                self._reconnector.avoid(connection)
                raise
            finally:
                connection.close()
        except JetStreamError as error:
            self._trouble("an election waits", reason=error)
        except NatsError as error:
            log.debug("an election goes on:%s", error)
        return Unknown()

    def _read_output(
        self, question: ReadOutput, take_found: TakeFound, go_on: Callable[[], bool]
    ) -> Answer:
        """What stands in the digest stream behind the word."""
        failpoints.reach("election.before_reading")
        self._exchange.token = question.token  # elected, and heard as the leader from now on
        after = question.after if question.after < question.token else 0
        if question.token != self._reads_for:
            self._reads_for, self._furthest = question.token, after
            self._moved_at = time.monotonic()
        reader = StoredIdsReader(
            self._reconnector,
            self._stream,
            domain=self._domain,
            after=after,
            end=question.token,
            # The word tells as much; and a leader that the majority disagrees with has left marks.
            believes_marks=False,
        )
        whole = reader.read_to_end(go_on, self._note_progress)
        if not whole or reader.ids.sequence < question.token:
            return Unknown()  # the latter: by a server that does not know yet that another leads
        failpoints.reach("election.read")
        take_found(reader, question.token)
        return Done()

    def _note_progress(self, sequence: int) -> None:
        """Whatever is read once more, since a reading broke off, is no progress."""
        if sequence > self._furthest:
            self._furthest, self._moved_at = sequence, time.monotonic()
        self._exchange.progress = self._furthest
        self._exchange.stuck = time.monotonic() - self._moved_at > STUCK_AFTER_S
