"""Knowing who is due: from the service's news, and from a list where some may be missing.

The service tells who becomes due as long as somebody asks it to, under a *watch* that has an id,
and numbers what it tells. News of another watch, or of a number too high, means that some did not
reach us: then all who are due are listed.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator

from alarmdigest.connect.schedule.due_list import DueList, Page
from alarmdigest.connect.schedule.due_news import DueNews, News
from alarmdigest.connect.service_questions import ask
from alarmdigest.nats.errors import NoAnswer
from alarmdigest.nats.requests import Requests
from alarmdigest.runtime.logs import Fields, LimitedLog
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)

WATCH_EVERY_S = 2.0
WATCH_FOR_S = 30
# Those whose time has come do not wait, again and again, for a service that hangs.
HANGS_AFTER_S = 1.0
ASK_AGAIN_S = 5.0
# Also where nothing seems to be missing.
LIST_EVERY_S = 300.0
# However often something is missing: so long after a list, and as long as that has taken.
LIST_PAUSE_S = 1.0
NEWS_AT_ONCE = 5000
MOST_LEFT_OUT = 10_000_000


class Watching:
    """For one thread. ``unanswered`` says why the service tells nothing; empty while it does."""

    def __init__(self, settings: Settings, news: DueNews) -> None:
        self._settings = settings
        self._news = news
        self.unanswered = "the service was not asked yet"
        self.listings = self.heard = 0
        self._trouble = LimitedLog(log, logging.WARNING, interval_s=60.0)
        self.begin()

    def begin(self) -> None:
        """Anew: whatever was heard before may be old."""
        self._watch, self._number = "", 0
        self._behind = 0
        self._gaps = -1
        self._why_list = "the beginning"
        self._list: DueList | None = None
        self._list_at = self._watch_at = self._list_not_before = 0.0
        self.drop_news()

    def drop_news(self) -> None:
        while not self._news.queue.empty():
            self._news.queue.get_nowait()

    def list_soon(self, why: str) -> None:
        self._why_list = why

    def keep_watch(self, requests: Requests) -> None:
        """Have the service tell its news. Raises ConnectionLost and JetStreamDenied."""
        if self._news.gaps != self._gaps:
            self._gaps = self._news.gaps
            self.list_soon("a connection that was new, or news that were too many")
        if self._news.deaf or time.monotonic() < self._watch_at:
            return
        asked_at = time.monotonic()
        self._watch_at = asked_at + WATCH_EVERY_S
        try:
            answer = ask(
                requests, self._settings, "watch", "items", whom=("leader",), seconds=WATCH_FOR_S
            )
            watch, number = str(answer["watch"]), int(answer["number"])
        except (NoAnswer, KeyError, TypeError, ValueError) as error:
            self._is_unanswered(error)
            if time.monotonic() - asked_at > HANGS_AFTER_S:
                self._watch_at = time.monotonic() + ASK_AGAIN_S
            return
        if self.unanswered and self.listings:
            log.info("the service says who is due again")
        self.unanswered = ""
        if watch != self._watch:
            self._watch, self._number, self._behind = watch, number, 0
            self.list_soon("a watch that is new")
        # What is told may be on its way to us; twice in a row it is not.
        self._behind = self._behind + 1 if number > self._number else 0
        if self._behind > 1:
            self._number, self._behind = number, 0
            self.list_soon("news that did not come")

    def hear(self, wait_s: float) -> list[News]:
        """What the service has told, waiting for it for so long."""
        found: list[News] = []
        try:
            found.append(self._news.queue.get(timeout=wait_s))
            while len(found) < NEWS_AT_ONCE:
                found.append(self._news.queue.get_nowait())
        except queue.Empty:
            pass
        # Of another watch, the next answer says whether it is ours now; then all are listed.
        ours = [one for one in found if one.watch == self._watch]
        for one in ours:
            if one.number != self._number + 1:
                self.list_soon("news that were left out")
            if one.number <= self._number + MOST_LEFT_OUT:  # else somebody made it up
                self._number = max(self._number, one.number)
        self.heard += len(found)
        return ours

    def next_page(self, requests: Requests) -> Iterator[Page]:
        """Go on with the list, if one is wanted. Raises ConnectionLost and JetStreamDenied."""
        now = time.monotonic()
        if self._list is None:
            if now >= self._list_at + LIST_EVERY_S:
                self._why_list = self._why_list or "the usual look"
            if not self._why_list or self.unanswered or now < self._list_not_before:
                return
            log.debug("listing who is due%s", Fields(because_of=self._why_list))
            self._list, self._why_list, self._list_at = DueList(self._settings), "", now
        try:
            page = self._list.next_page(requests)
        except NoAnswer as error:
            self._end_list()
            self.list_soon("a list that was not ended")
            self._is_unanswered(error)
            return
        yield page
        if self._list.done:
            self._end_list()
            self.listings += 1

    def _end_list(self) -> None:
        self._list = None
        ended = time.monotonic()
        self._list_not_before = ended + max(LIST_PAUSE_S, ended - self._list_at)

    def _is_unanswered(self, error: Exception) -> None:
        self.unanswered = f"the service does not say who is due: {error}"
        self._trouble("the service does not say who is due", reason=error)
