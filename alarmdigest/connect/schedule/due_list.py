"""Listing who is due, page by page: what news may have left out."""

from __future__ import annotations

from typing import NamedTuple

from alarmdigest._ext import timestamps
from alarmdigest.connect.service_questions import LEADER_ONLY, Refused, ask
from alarmdigest.nats.requests import Requests
from alarmdigest.settings import Settings


class Page(NamedTuple):
    """Some users who are due: UserID, since when (ns), whether critical. ``read_through`` is the
    sequence up to which the service had read the stream at least."""

    users: list[tuple[str, int, bool]]
    read_through: int


class DueList:
    """All users of all workers of the service, a page at a time; some of them may come twice."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._worker = self._slot = self._slots = 0
        self.done = False

    def next_page(self, requests: Requests) -> Page:
        """Raises NoAnswer, Refused for what makes no sense, and ConnectionLost."""
        answer = ask(
            requests,
            self._settings,
            "due",
            "users",
            whom=LEADER_ONLY,
            worker=self._worker,
            slot=self._slot,
            slots=self._slots,
        )
        try:
            users = [
                (str(one["UserID"]), timestamps.to_ns(one["Since"]), one["Status"] == "CRITICAL")
                for one in answer["users"]
            ]
            self._slot, self._slots = int(answer["slot"]), int(answer["slots"])
            workers, read_through = int(answer["workers"]), int(answer["read_through"] or 0)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"an answer that no service gives: {error!r}") from error
        if self._slot == 0:
            self._worker += 1
            self._slots = 0
            self.done = self._worker >= workers
        return Page(users, read_through)
