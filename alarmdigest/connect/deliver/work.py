"""All threads of a deliver process but the HTTP page's, as ``ProcessRunner`` wants them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from alarmdigest.connect.deliver.deliverer import Deliverer
from alarmdigest.connect.deliver.lanes import Item
from alarmdigest.connect.deliver.pool import Pool, Renderers, Worker
from alarmdigest.connect.deliver.rendering import Renderer
from alarmdigest.connect.deliver.routes import MessageRules, Routes, Way, needs_restart
from alarmdigest.connect.deliver.sender import check
from alarmdigest.connect.process_runner import connect_for
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.runtime.logs import Fields
from alarmdigest.runtime.service_thread import STUCK_AFTER_S
from alarmdigest.settings import Settings

log = logging.getLogger(__name__)


class DeliverWork:
    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Routes],
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        """Raises SettingsError for routes or templates that cannot be used."""
        self._read = read
        self.routes = read()
        self.renderers = renderers_of(self.routes.messages)
        self.deliverer = Deliverer(
            settings,
            lambda: self.routes,
            connect_for(settings, "alarmdigest-deliver"),
            on_failure,
        )
        sending = self.routes.sending
        deliverer = self.deliverer
        self.pool = Pool(
            sending.threads,
            sending.hangs_after.seconds,
            lambda name: Worker(
                name, deliverer.lanes, lambda: self.renderers, deliverer.outcomes, on_failure
            ),
        )
        warn_of_several_recipients(self.routes)

    @property
    def blocked(self) -> str:
        return self.deliverer.blocked

    @property
    def reconnector(self) -> Reconnector:
        return self.deliverer.reconnector

    def start(self) -> None:
        self.pool.start()
        self.deliverer.pool = self.pool
        self.deliverer.start()

    def stop(self) -> None:
        self.deliverer.stop()

    def join(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self.deliverer.join(timeout)
        self.pool.stop()
        self.pool.join(max(0.0, deadline - time.monotonic()))

    def is_alive(self) -> bool:
        return self.deliverer.is_alive() or self.pool.sending > 0

    def liveness_failures(self) -> list[str]:
        stuck = ["deliverer"] if self.deliverer.stuck else []
        return [
            f"thread {name} is stuck: no sign of life for {STUCK_AFTER_S:g} s"
            for name in (*stuck, *self.pool.stuck())
        ]

    def degradations(self) -> list[str]:
        return [self.deliverer.standby] if self.deliverer.standby else []

    def counters(self) -> dict[str, int]:
        deliverer = self.deliverer
        settling = deliverer.settling
        return {
            "acting": int(deliverer.acting),
            "waiting": deliverer.lanes.figures().waiting,
            # Copies are made at once, while other threads count on.
            "sent": sum(dict(settling.sent).values()),
            "dead": sum(dict(settling.dead).values()),
        }

    def reload(self) -> None:
        """Raises SettingsError: all is as before."""
        routes = self._read()
        renderers = renderers_of(routes.messages)
        renderers.failures = self.renderers.failures
        old = self.routes
        if names := needs_restart(old, routes):
            log.warning("counts from the next start on: %s", ", ".join(names))
        self.routes = replace(
            routes, consumer=old.consumer, sending=old.sending, storage=old.storage
        )
        self.renderers = renderers
        self.deliverer.composer.most_rows = routes.messages.most_rows
        self.deliverer.lanes.reroute(self._way_now)
        warn_of_several_recipients(routes)
        log.info("routes read%s", Fields(file=routes.file))

    def _way_now(self, item: Item) -> Way:
        """Where an item that waits goes by the new routes: by the target of the same name."""
        for way in self.routes.ways(item.delivery.user_id):
            if way.target.name == item.way.target.name:
                return way
        return item.way


def renderers_of(rules: MessageRules) -> Renderers:
    """Raises SettingsError."""
    return Renderers(Renderer(rules.templates, most_rows=rules.most_rows), rules.most_rows)


def warn_of_several_recipients(routes: Routes) -> None:
    for target in routes.targets.values():
        if (count := check(target.url).recipients) > 1:
            log.warning(
                "a target with several recipients: where one refuses, all of them are sent to "
                "again; make a target of each%s",
                Fields(target=target.name, recipients=count),
            )
