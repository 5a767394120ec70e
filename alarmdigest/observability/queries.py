"""What operators ask over NATS: the alarms of one user, who waits for what, and to trace somebody.

The answers come from the alarm books, through the queues of the workers
(``pipeline/questions.py``). Who may ask is a matter of permissions for the subject: see
docs/questions.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from alarmdigest import __version__
from alarmdigest._ext import timestamps
from alarmdigest.observability.due_news import DueNews, due_lines, user_json
from alarmdigest.observability.health import liveness_failures, readiness_failures
from alarmdigest.observability.user_listing import UserListing
from alarmdigest.pipeline.questions import DueUsers, Question, RowsOfUser
from alarmdigest.pipeline.replica import Replica
from alarmdigest.pipeline.service import Service
from alarmdigest.store.one_user import alarm_json, alarms_in
from alarmdigest.wire.buckets import bucket_of
from alarmdigest.wire.messages import MAX_ID_BYTES
from alarmdigest.wire.queries import LONGEST_TRACE_S, LONGEST_WATCH_S, MOST_TOP, ORDERS, addressee

# A UserID of the longest, written as escapes, has some 6 KiB.
MOST_BODY_BYTES = 16 * 1024
# So many are answered at once; more are told to come again.
MOST_OPEN = 16
# Less than who asks waits.
EXPIRES_S = 5.0


class BadQuery(ValueError):
    """Says what is wrong with a question."""


class Query:
    """One question from outside, and what it is divided into."""

    def __init__(self, reply: bytes, parts: Sequence[Question], answer: Callable[[], Answer]):
        self.reply = reply
        self.parts = parts
        self.asked_at = time.monotonic()
        self.answer = answer

    @property
    def done(self) -> bool:
        return all(part.answered for part in self.parts)

    @property
    def expired(self) -> bool:
        return time.monotonic() - self.asked_at > EXPIRES_S


#: The head of an answer, the name of the list in it, and its items.
Answer = tuple[dict[str, Any], str, list[dict[str, Any]]]


class Queries:
    """Used by one thread. ``on_answered`` is called by others once ``answers()`` has something."""

    def __init__(self, service: Service, news: DueNews, on_answered: Callable[[], None]) -> None:
        self._service = service
        self._news = news
        self._on_answered = on_answered
        self._open: list[Query] = []
        self._divided = {"show": self._show, "users": self._users, "due": self._due}

    def ask(self, name: str, body: bytes, reply: bytes) -> bytes | None:
        """A question has come: what is to be answered at once, such as what is wrong with it; None
        also where it is for somebody else."""
        try:
            asked = orjson.loads(body) if len(body) <= MOST_BODY_BYTES else None
        except orjson.JSONDecodeError:
            asked = None
        if not isinstance(asked, dict):
            return _error(f"a question is a JSON object of up to {MOST_BODY_BYTES} bytes")
        if not self._is_for_us(asked, everybody=name == "trace"):
            return None
        try:
            if name == "trace":
                return self._trace(asked)
            if name == "watch":
                return self._watch(asked)
            if len(self._open) >= MOST_OPEN:
                return _error("too many questions at once: ask again later", busy=True)
            query = self._divided[name](asked, reply)
        except BadQuery as bad:
            return _error(str(bad))
        self._open.append(query)
        return None

    def answers(self, most_bytes: int) -> Iterator[tuple[bytes, bytes]]:
        """Subject and body of each message that answers; none is larger than ``most_bytes``."""
        for query in [query for query in self._open if query.done or query.expired]:
            self._open.remove(query)
            for body in self._answer(query, most_bytes):
                yield query.reply, body

    def _answer(self, query: Query, most_bytes: int) -> Iterator[bytes]:
        if not query.done:
            for part in query.parts:
                part.cancelled = True
            return iter([_error("the workers have no time to answer", busy=True)])
        if any(part.failed for part in query.parts):
            return iter([_error("no memory for the answer", busy=True)])
        try:
            return iter(list(_in_parts(*query.answer(), most_bytes)))
        except MemoryError:
            return iter([_error("no memory for the answer", busy=True)])

    # -- whom, and what --------------------------------------------------------------------------

    def _is_for_us(self, asked: dict[str, Any], *, everybody: bool) -> bool:
        """The leader of a group answers first; then whoever is ready."""
        settings = self._service.settings
        mine = addressee(
            requests=settings.request_subject,
            digests=settings.digest_subject,
            group=settings.group,
        )
        for name in ("requests", "digests", "group"):
            if name in asked and asked[name] != mine.get(name):
                return False
        replica = self._service.replica
        if everybody or replica is None or replica.leads:
            return bool(self._service.workers)
        return asked.get("whom") == "any" and self._is_current(replica)

    def _is_current(self, replica: Replica) -> bool:
        """Whether a follower knows what the leader would; that there is one now is not needed."""
        listener = self._service.listener
        current = listener is not None and listener.near_end and not replica.exchange.diverged
        return current and not liveness_failures(self._service)

    def _trace(self, asked: dict[str, Any]) -> bytes:
        """Begin to trace a user, or end it."""
        seconds, user = asked.get("seconds", 0), _user_of(asked).encode()
        if type(seconds) is not int or not 0 <= seconds <= LONGEST_TRACE_S:
            raise BadQuery(f"seconds must be from 0, which ends it, to {LONGEST_TRACE_S}")
        if not self._service.trace.is_logged:
            raise BadQuery(
                "a trace is logged with --log-level info or debug, and this one has less"
            )
        before = self._service.trace.user
        if seconds:
            self._service.trace.begin(user, seconds)
        elif before == user:
            self._service.trace.end()
        elif before is not None:
            raise BadQuery("somebody else is traced, not this user")
        traced = [] if before in (None, user) else [before.decode()]
        return orjson.dumps(
            {**self._head(), "seconds": seconds, "instead_of": traced, "last": True}
        )

    def _watch(self, asked: dict[str, Any]) -> bytes:
        """Have those told for a while who become due."""
        seconds = asked.get("seconds")
        if type(seconds) is not int or not 1 <= seconds <= LONGEST_WATCH_S:
            raise BadQuery(f"seconds must be from 1 to {LONGEST_WATCH_S}")
        begun = {**self._news.begin(seconds), "subject": self._service.settings.due_subject}
        return orjson.dumps({**self._head(), **begun, "items": [], "last": True})

    def _due(self, asked: dict[str, Any], reply: bytes) -> Query:
        """Some of the users of one worker who have due alarms."""
        workers = self._service.workers
        worker, slot, slots = (asked.get(name, 0) for name in ("worker", "slot", "slots"))
        if type(worker) is not int or not 0 <= worker < len(workers):
            raise BadQuery(f"worker must be from 0 to {len(workers) - 1}")
        if not all(type(one) is int and 0 <= one < 1 << 32 for one in (slot, slots)):
            raise BadQuery("slot and slots must be what the last answer said, or 0")
        head = {**self._head(), "worker": worker, "workers": len(workers)}
        found = DueUsers(slot, slots, self._on_answered)
        workers[worker].queue.put(found)

        def answer() -> Answer:
            users = [user_json(*one) for lines in found.lines for one in due_lines(lines)]
            return {**head, "slot": found.slot, "slots": found.slots}, "users", users

        return Query(reply, [found], answer)

    def _show(self, asked: dict[str, Any], reply: bytes) -> Query:
        user_id = _user_of(asked)
        workers = self._service.workers
        head = self._head()
        rows = RowsOfUser(user_id.encode(), self._on_answered)
        workers[bucket_of(user_id) % len(workers)].queue.put(rows)

        def answer() -> Answer:
            found = alarms_in(rows.rows)
            return {**head, "UserID": user_id}, "alarms", [alarm_json(one) for one in found]

        return Query(reply, [rows], answer)

    def _users(self, asked: dict[str, Any], reply: bytes) -> Query:
        top, sort = asked.get("top", 20), asked.get("sort", ORDERS[0])
        only_due, only_active = asked.get("due", False), asked.get("active", False)
        if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= MOST_TOP:
            raise BadQuery(f"top must be from 1 to {MOST_TOP}")
        if sort not in ORDERS:
            raise BadQuery(f"sort must be one of {', '.join(ORDERS)}")
        if not isinstance(only_due, bool) or not isinstance(only_active, bool):
            raise BadQuery("due and active must be true or false")
        head = self._head()
        listing = UserListing(
            self._service,
            sort=sort,
            top=top,
            only_due=only_due,
            only_active=only_active,
            on_answered=self._on_answered,
        )

        def answer() -> Answer:
            return {**head, **listing.totals()}, "top", listing.topmost()

        return Query(reply, listing.parts, answer)

    def _head(self) -> dict[str, Any]:
        """Who answers, and how new what he knows is."""
        service, replica, listener = self._service, self._service.replica, self._service.listener
        return {
            "replica": replica.identity.name if replica is not None else None,
            "leads": replica.leads if replica is not None else None,
            "version": __version__,
            "ready": not readiness_failures(service),
            "at": timestamps.to_text(time.time_ns()),
            "behind": listener.behind if listener is not None else None,
            "read_through": listener.router.sequence
            if listener is not None and service.mode == "stream"
            else None,
            "retention": service.settings.retention,
            "clock_skew": service.settings.clock_skew,
        }


def _user_of(asked: dict[str, Any]) -> str:
    user_id = asked.get("UserID")
    # What orjson has read is text in UTF-8.
    if not isinstance(user_id, str) or not 1 <= len(user_id.encode()) <= MAX_ID_BYTES:
        raise BadQuery(f"UserID must be a text of 1 to {MAX_ID_BYTES} bytes")
    return user_id


def _in_parts(
    head: dict[str, Any], name: str, items: list[dict[str, Any]], most_bytes: int
) -> Iterator[bytes]:
    """As many messages as it takes; each has the head, and the last one says so."""
    whole_head = orjson.dumps({**head, "part": 2**31, "last": False, name: []})
    room, part, size = max(1, most_bytes - len(whole_head)), 0, 0
    begun: list[dict[str, Any]] = []
    for item in items:
        length = len(orjson.dumps(item)) + 1
        if begun and size + length > room:
            yield orjson.dumps({**head, "part": part, "last": False, name: begun})
            part, size, begun = part + 1, 0, []
        begun.append(item)
        size += length
    yield orjson.dumps({**head, "part": part, "last": True, name: begun})


def _error(text: str, *, busy: bool = False) -> bytes:
    """``busy``: another replica may answer, or this one later."""
    return orjson.dumps({"error": text, "busy": busy, "last": True})
