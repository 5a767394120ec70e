"""The threads of a scheduler, as its process sees them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from alarmdigest.connect.process_runner import connect_for
from alarmdigest.connect.schedule.due_news import DueNews
from alarmdigest.connect.schedule.scheduler import Scheduler
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.runtime.service_thread import STUCK_AFTER_S
from alarmdigest.settings import Settings


class SchedulerWork:
    """See ``process_runner.Work``."""

    def __init__(
        self,
        settings: Settings,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        """Raises UrlError."""
        self.news = DueNews(
            connect_for(settings, "alarmdigest-scheduler-news"), settings.due_subject, on_failure
        )
        self.scheduler = Scheduler(
            settings, connect_for(settings, "alarmdigest-scheduler"), self.news, on_failure
        )

    @property
    def blocked(self) -> str:
        return self.scheduler.blocked

    @property
    def reconnector(self) -> Reconnector:
        return self.scheduler.reconnector

    def start(self) -> None:
        self.news.start()
        self.scheduler.start()

    def stop(self) -> None:
        self.scheduler.stop()
        self.news.stop()

    def join(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for thread in (self.scheduler, self.news):
            thread.join(max(0.0, deadline - time.monotonic()))

    def is_alive(self) -> bool:
        return self.scheduler.is_alive() or self.news.is_alive()

    def liveness_failures(self) -> list[str]:
        return [
            f"thread {thread.name} is stuck: no sign of life for {STUCK_AFTER_S:g} s"
            for thread in (self.scheduler, self.news)
            if thread.stuck
        ]

    def degradations(self) -> list[str]:
        scheduler = self.scheduler
        if not scheduler.acting:
            return [f"stands by: {scheduler.holder or 'nobody'} acts"]
        found = [self.news.deaf, scheduler.watching.unanswered]
        return [one for one in found if one]

    def counters(self) -> dict[str, int]:
        scheduler = self.scheduler
        return {
            "acting": int(scheduler.acting),
            "waiting": len(scheduler.agenda),
            "requests": scheduler.requests,
            "failed": scheduler.failed,
        }

    def reload(self) -> None:
        self.scheduler.reload()
