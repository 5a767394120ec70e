"""The threads of a service, made of its settings and what the start has found out; not started."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.pipeline.barrier_schedule import BarrierSchedule
from alarmdigest.pipeline.checkpointer import Checkpointer
from alarmdigest.pipeline.due_watch import DueWatch
from alarmdigest.pipeline.inflight.confirmer import Confirmer
from alarmdigest.pipeline.inflight.pong import PongConfirmer
from alarmdigest.pipeline.inflight.puback import PubAckConfirmer
from alarmdigest.pipeline.listener import Listener
from alarmdigest.pipeline.publisher import Publisher
from alarmdigest.pipeline.rejections import Rejections
from alarmdigest.pipeline.router_factory import make_router
from alarmdigest.pipeline.server_checks import stream_configs_of
from alarmdigest.pipeline.sources.pull_consumer import PullConsumerSource
from alarmdigest.pipeline.sources.source import Source
from alarmdigest.pipeline.sources.subscription import SubscriptionSource
from alarmdigest.pipeline.startup import StartPlan
from alarmdigest.pipeline.trace import Trace
from alarmdigest.pipeline.worker import Worker
from alarmdigest.settings import Settings
from alarmdigest.store import Store


class ThreadFactory:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        start_plan: StartPlan,
        trace: Trace,
        due_watch: DueWatch,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._start_plan = start_plan
        self._trace = trace
        self._due_watch = due_watch
        self._on_failure = on_failure

    def checkpointer(self) -> Checkpointer:
        return Checkpointer(
            self._store,
            workers=self._settings.workers,
            content_settings=self._start_plan.content_settings,
            on_failure=self._on_failure,
        )

    def confirmer(self, reconnector: Reconnector) -> Confirmer:
        """That of a single instance; a replica makes its own."""
        settings, last = self._settings, self._store.last
        if self._start_plan.mode != "stream":
            return PongConfirmer(settings.digest_subject, settings.rejected_subject)
        configs = stream_configs_of(settings)
        return PubAckConfirmer(
            settings.digest_subject,
            settings.rejected_subject,
            (configs.digests, configs.rejected),
            reconnector,
            create=not settings.no_create_streams,
            domain=settings.js_domain,
            outputs=last.outputs if last is not None else {},
            replays=last is not None or settings.start != "new",
        )

    def publisher(
        self, confirmer: Confirmer, reconnector: Reconnector, checkpointer: Checkpointer
    ) -> Publisher:
        return Publisher(
            reconnector,
            confirmer,
            producers=self._settings.workers + 1,
            replay_end=self._start_plan.replay_end,
            on_barrier_confirmed=checkpointer.confirmed,
            on_failure=self._on_failure,
        )

    def workers(self, publisher: Publisher, checkpointer: Checkpointer) -> list[Worker]:
        settings = self._settings
        # Whoever knows the secret could choose ids that make the tables slow.
        secret = os.urandom(16)
        return [
            Worker(
                number,
                AlarmBook(
                    retention_ns=settings.retention,
                    split_bytes=self._start_plan.split_bytes,
                    secret=secret,
                    publish_empty=settings.publish_empty,
                    stream=settings.events_stream.encode(),
                ),
                publisher.queue,
                checkpointer,
                self._trace,
                self._due_watch,
                self._on_failure,
            )
            for number in range(settings.workers)
        ]

    def listener(
        self,
        reconnector: Reconnector,
        rejections: Rejections,
        workers: Sequence[Worker],
        publisher: Publisher,
    ) -> Listener:
        settings, last = self._settings, self._store.last
        source: Source
        if self._start_plan.mode == "stream":
            source = PullConsumerSource(
                stream_configs_of(settings)[0],
                create=not settings.no_create_streams,
                domain=settings.js_domain,
                start=settings.start,
                position=last.position if last is not None else None,
            )
        else:
            source = SubscriptionSource(
                settings.event_subject,
                settings.request_subject,
                settings.forget_subject,
                settings.drain_timeout.seconds,
                accept_clock_step=settings.accept_clock_step,
            )
        return Listener(
            reconnector,
            source,
            make_router(settings, rejections, self._trace, last),
            rejections,
            workers,
            publisher.queue,
            BarrierSchedule.of(settings, self._store),
            self._trace,
            backlog_limit=settings.backlog_limit,
            on_failure=self._on_failure,
        )
