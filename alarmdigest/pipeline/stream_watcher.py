"""Looks at the streams now and then: somebody may edit them while the service runs.

It has a connection and a thread of its own, and only looks. The listener and the publisher notice
by themselves when a stream is gone. Only this thread would notice an edit that makes a stream move
events to another subject, or delete them before they are read.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import ConnectionLost, NatsError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.nats.stream_configs import Role, StreamConfig
from alarmdigest.nats.streams import Examined, examine
from alarmdigest.runtime.logs import LimitedLog

log = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
# How often what is still wrong is said again.
SAY_AGAIN_S = 60.0


class StreamWatcher(threading.Thread):
    """Watches until stop(). Whatever happens to it is logged, and no more.

    ``degradations`` are the sentences of the last look that say why a stream will not do, ``infos``
    what the streams were then. Both are replaced as a whole, so any thread may read them.
    """

    def __init__(
        self,
        reconnector: Reconnector,
        stream_configs: Sequence[StreamConfig],
        *,
        domain: str,
        create: bool,
    ) -> None:
        super().__init__(name="stream-watcher", daemon=True)
        self._reconnector = reconnector
        self._plans = stream_configs
        self._domain = domain
        self._create = create
        self._stopping = threading.Event()
        self._warned: set[str] | None = None
        self._said: dict[str, float] = {}
        self._blind = LimitedLog(log, logging.WARNING, interval_s=SAY_AGAIN_S)
        self.degradations: tuple[str, ...] = ()
        self.infos: dict[Role, StreamInfo] = {}

    def stop(self) -> None:
        """Does not wait: a drain must not depend on it."""
        self._stopping.set()
        self.degradations = ()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                connection = self._reconnector.connect_with_backoff(
                    lambda: not self._stopping.is_set()
                )
                if connection is None:
                    return
                try:
                    self._watch(JetStream(connection, domain=self._domain))
                except (AttributeError, KeyError, NatsError, TypeError, ValueError) as error:
                    # Also an answer of a kind that JetStream does not give.
                    if not self._stopping.is_set():
                        self._blind("cannot look at the streams", reason=error)
                finally:
                    connection.close()
                self._stopping.wait(1.0)
        except Exception:
            log.exception("the stream watcher has ended; nothing else depends on it")

    def _watch(self, jetstream: JetStream) -> None:
        """Raises ConnectionLost. What JetStream refuses may be granted at the next look."""
        while not self._stopping.is_set():
            try:
                found = examine(jetstream, self._plans, create=self._create, reading=True)
            except ConnectionLost:
                raise
            except NatsError as error:
                self._blind("cannot look at the streams", reason=error)
            else:
                self._note(found)
            self._stopping.wait(LOOK_EVERY_S)

    def _note(self, found: Examined) -> None:
        now = time.monotonic()
        self._said = {text: at for text, at in self._said.items() if text in found.problems}
        for text in found.problems:
            if now >= self._said.get(text, -math.inf) + SAY_AGAIN_S:
                self._said[text] = now
                log.error("%s", text)
        if self.degradations and not found.problems:
            log.info("all streams are usable again")
        self.degradations, self.infos = tuple(found.problems), found.infos
        if self._warned is not None:  # the start has warned of what was there then
            for text in found.warnings:
                if text not in self._warned:
                    log.warning("%s", text)
        self._warned = set(found.warnings)

    def states(self) -> list[dict[str, Any]]:
        """What the last look saw, for the page and ``status``."""
        infos = self.infos
        return [
            {
                "name": plan.name,
                "replicas": infos[plan.role].replicas,
                "leader": infos[plan.role].leader or None,
            }
            for plan in self._plans
            if plan.role in infos
        ]
