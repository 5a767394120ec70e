"""Bridge, scheduler and deliver as the NATS service API has them: so `nats micro` lists them, and
the service's page shows what they do. docs/metrics.md says what is answered."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.service_answers import ServiceAnswers
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.settings import Settings
from alarmdigest.wire import service_api
from alarmdigest.wire.service_api import Stage

log = logging.getLogger(__name__)


class StatsAnswers(ServiceAnswers):
    """Answers for one process. ``counters`` has them by the names that the stage gives them, and is
    called in this thread."""

    def __init__(
        self,
        stage: Stage,
        settings: Settings,
        reconnector: Reconnector,
        counters: Callable[[], dict[str, int]],
    ) -> None:
        super().__init__(
            reconnector,
            name=stage.name,
            description=stage.description,
            inbox_prefix=settings.inbox_prefix,
            not_to=settings.subjects,
        )
        self._stage = stage
        self._subject = str(getattr(settings, stage.setting))
        self._counters = counters
        self._quiet = LimitedLog(log, logging.INFO, interval_s=math.inf)

    def _metadata(self) -> dict[str, str]:
        return {self._stage.about: self._subject}

    def _endpoints(self) -> dict[str, str]:
        return {self._stage.endpoint: self._subject}

    def _stats(self) -> list[dict[str, Any]]:
        counters = self._counters()
        return [
            service_api.endpoint(
                self._stage.endpoint,
                self._subject,
                num_requests=counters[self._stage.done],
                num_errors=counters[self._stage.failed],
                last_error="",
                processing_time=0,
                average_processing_time=0,
                data=counters,
            )
        ]

    def _on_refused(self, refused: str) -> None:
        """Once: who has given us no permission may not want it."""
        self._quiet("the server does not let us answer the service API", reason=refused)
