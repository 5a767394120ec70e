"""Thread *scheduler*: publishes a request for each user whose time has come."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import orjson

from alarmdigest._ext import timestamps
from alarmdigest.connect.buckets import ensure_bucket
from alarmdigest.connect.detail_keys import user_key
from alarmdigest.connect.lease import Lease
from alarmdigest.connect.process_runner import NO_CONNECTION
from alarmdigest.connect.publishing import BatchJetStream, Outgoing
from alarmdigest.connect.schedule.agenda import Agenda, Due
from alarmdigest.connect.schedule.bucket import EVERYBODY, LEASE_KEY, bucket_config
from alarmdigest.connect.schedule.due_list import Page
from alarmdigest.connect.schedule.due_news import DueNews, News
from alarmdigest.connect.schedule.schedules import Schedules
from alarmdigest.connect.schedule.watching import Watching
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, JetStreamOff, NatsError
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.subjects import covers_any_below
from alarmdigest.runtime import failpoints
from alarmdigest.runtime.histogram import Histogram
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

LEASE_S = 6.0
RENEW_EVERY_S = 1.0
FOLLOW_EVERY_S = 0.5
LOOK_AGAIN_S = 2.0
REQUESTS_AT_ONCE = 2000
# A stream's clock may be a little ahead of ours.
CLOCK_TOLERANCE_NS = 10**9


class Scheduler(ServiceThread):
    """``blocked`` says why nothing can be done; empty while it can. ``acting``: ours is the lease.

    ``requests`` counts those that the stream has stored, ``duplicates`` those that it had already,
    ``failed`` those that it did not take: they are sent again.
    """

    def __init__(
        self,
        settings: Settings,
        reconnector: Reconnector,
        news: DueNews,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__("scheduler", on_failure)
        self._settings = settings
        self.reconnector = reconnector
        self.stopping = threading.Event()
        self.blocked = NO_CONNECTION
        self.acting = False
        self._bucket = bucket_config(settings.stream_replicas, settings.js_domain)
        self._me = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._lease: Lease | None = None
        self.schedules = Schedules(self._bucket)
        self.agenda = Agenda(self.schedules.due_at)
        self.watching = Watching(settings, news)
        # Of users who were asked for: the sequence of the request, until the service has read it.
        self._asked: dict[str, int] = {}
        self._renew_at = self._follow_at = self._send_at = 0.0
        self._term = 0
        self._reload_asked = threading.Event()
        self.requests = self.duplicates = self.failed = self.from_the_future = 0
        # How much later than its time a request was stored.
        self.lateness = Histogram()
        self._trouble = LimitedLog(log, logging.WARNING)

    def stop(self) -> None:
        """Does not wait."""
        self.stopping.set()

    def reload(self) -> None:
        """Have all schedules read again."""
        self._reload_asked.set()

    @property
    def holder(self) -> str:
        """Who acts, as far as it is known."""
        return self._lease.holder if self._lease is not None else ""

    def work(self) -> None:
        while not self.stopping.is_set():
            connection = self.reconnector.connect_with_backoff(self._go_on)
            if connection is None:
                break
            try:
                self._use(connection)
            except NatsError as error:
                self._trouble("cannot schedule", reason=error)
                self.blocked = str(error)
            finally:
                connection.close()

    def _go_on(self) -> bool:
        self.sign_of_life()
        self._see_whether_we_act()
        return not self.stopping.is_set()

    def _use(self, connection: Connection) -> None:
        js = BatchJetStream(connection, domain=self._settings.js_domain)
        while not self.stopping.is_set() and (missing := self._prepare(js)):
            self._trouble("no requests are sent yet", reason=missing)
            self.blocked = missing
            self._wait(js, LOOK_AGAIN_S)
        lease = self._lease = self._lease or Lease(js, self._bucket, LEASE_KEY, self._me, LEASE_S)
        lease.js = js
        self.blocked = ""
        while not self.stopping.is_set():
            self.sign_of_life()
            js.see_to_connection()
            self._renew()
            self._follow_schedules(js)
            if self.acting:
                self._act(js)
            else:
                self.watching.drop_news()
                if lease.holder not in ("", self._me):
                    self.agenda.clear()
                self.stopping.wait(TICK_S)
        with suppress(NatsError):
            lease.release()

    def _prepare(self, js: BatchJetStream) -> str:
        """What is missing on the server; empty for nothing. Raises NatsError."""
        settings = self._settings
        try:
            info = js.stream_info(settings.events_stream)
        except JetStreamOff:
            return "the server has no JetStream (for this account), which the scheduler needs"
        if info is None:
            return (
                f"there is no stream {settings.events_stream}: start the service, which makes it, "
                "or name its stream with --events-stream"
            )
        js.home = info.domain
        if not any(covers_any_below(settings.request_subject, one) for one in info.subjects):
            return f"stream {info.name} does not capture {settings.request_subject}"
        try:
            ensure_bucket(js, self._bucket, create=not settings.no_create_streams)
        except ConnectionLost:
            raise
        except NatsError as error:
            return str(error)
        return ""

    def _wait(self, js: BatchJetStream, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.stopping.wait(TICK_S):
            self.sign_of_life()
            self._see_whether_we_act()
            js.see_to_connection()

    def _renew(self) -> None:
        """Nothing may take longer than the lease lasts without this in between."""
        self.sign_of_life()
        if self._lease is not None and time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + RENEW_EVERY_S
            self._lease.try_acquire()
        self._see_whether_we_act()

    def _see_whether_we_act(self) -> None:
        lease = self._lease
        held = lease is not None and lease.held
        if lease is None or held == self.acting:
            return
        self.acting = held
        if not held:
            log.info("another one acts now, or none%s", Fields(holder=self.holder or "none"))
        elif lease.terms != self._term:  # else nobody else can have acted: what we know holds
            self._term = lease.terms
            self.agenda.clear()
            self._asked.clear()
            self.watching.begin()
            log.info("acting from now on%s", Fields(holder=self._me))

    # -- while we act

    def _act(self, js: BatchJetStream) -> None:
        self.watching.keep_watch(js)
        self._renew()
        for news in self.watching.hear(self._seconds_to_wait()):
            self._on_news(news)
        for page in self.watching.next_page(js):
            self._on_page(page)
        self._renew()
        if self.acting and time.monotonic() >= self._send_at:
            self._send(js)

    def _seconds_to_wait(self) -> float:
        next_ns = self.agenda.next_ns
        left_s = TICK_S if next_ns is None else (next_ns - time.time_ns()) / 1e9
        return max(0.0, min(TICK_S, left_s))

    def _follow_schedules(self, js: BatchJetStream) -> None:
        """Also while another one acts: whoever takes over has them at once."""
        if self._reload_asked.is_set():
            self._reload_asked.clear()
            self.schedules.forget_all()
        elif time.monotonic() < self._follow_at:
            return
        self._follow_at = time.monotonic() + FOLLOW_EVERY_S
        changed = self.schedules.catch_up(js, self._renew)
        if not changed:
            return
        if not self.schedules and not self.schedules.has_default:
            log.warning(
                "nobody has a schedule, so no requests are sent; one for everybody, for instance: "
                "alarmdigest schedule set --default --within 5m"
            )
        # Who had no schedule before is in no agenda.
        self.watching.list_soon("schedules that have changed")
        if EVERYBODY in changed:
            self.agenda.schedules_changed(self._renew)
        else:
            for user in changed:
                self.agenda.schedule_changed(str(user))

    def _on_news(self, news: News) -> None:
        self._asked.pop(news.user, None)
        self._enter(news.user, news.since_ns, news.critical)

    def _on_page(self, page: Page) -> None:
        for user, since_ns, critical in page.users:
            asked = self._asked.get(user)
            if asked is None or asked <= page.read_through:
                self._asked.pop(user, None)
                self._enter(user, since_ns, critical)

    def _enter(self, user: str, since_ns: int, critical: bool) -> None:
        """What is due since a time that our clock has not reached is due since now."""
        now_ns = time.time_ns()
        if since_ns > now_ns + CLOCK_TOLERANCE_NS:
            self.from_the_future += 1
            since_ns = now_ns
        self.agenda.add(user, since_ns, critical)

    def _send(self, js: BatchJetStream) -> None:
        due = self.agenda.take(time.time_ns(), REQUESTS_AT_ONCE)
        if not due:
            return
        failpoints.reach("scheduler.before_send")
        try:
            with self.busy("publishing requests"):
                outcomes = js.publish_all([self._request(one) for one in due])
        except NatsError:
            self.agenda.put_back(due)
            raise
        failpoints.reach("scheduler.after_send")
        now_ns, problem = time.time_ns(), ""
        for one, outcome in zip(due, outcomes, strict=True):
            if outcome.problem:
                problem = outcome.problem
                self.failed += 1
                self.agenda.put_back([one])
                continue
            self.requests += not outcome.duplicate
            self.duplicates += outcome.duplicate
            self._asked[one.user] = outcome.sequence
            self.lateness.observe(max(0, now_ns - one.waiting.at_ns) / 1e9)
        self.blocked = problem
        if problem:
            self._trouble("requests are not stored; they are sent again", reason=problem)
            self._send_at = time.monotonic() + LOOK_AGAIN_S

    def _request(self, due: Due) -> Outgoing:
        """Whoever else asks for the same, another scheduler for instance, has the same id: since
        when something is due tells one digest of a user from the next."""
        headers = (
            "NATS/1.0\r\n"
            f"Nats-Msg-Id: alarmdigest-{user_key(due.user)}-{due.waiting.since_ns}\r\n"
            f"Alarmdigest-Scheduled: {timestamps.to_text(due.waiting.at_ns)}\r\n\r\n"
        )
        return Outgoing(
            self._settings.events_stream,
            self._settings.request_subject,
            orjson.dumps({"UserID": due.user}),
            headers.encode(),
        )
