"""The service's counters as Prometheus metrics.

Every thread counts for itself in plain integers; they are read, without a lock, when somebody
scrapes. A number may be a moment old, but none is ever half written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from alarmdigest import __version__
from alarmdigest.observability.dependency_metrics import dependency_metrics
from alarmdigest.observability.deprecated_metrics import deprecated_alias, dropped_total
from alarmdigest.observability.duration_metrics import duration_metrics, oldest_age_s
from alarmdigest.observability.group_status import group_metrics
from alarmdigest.observability.health import readiness_failures
from alarmdigest.observability.losses import losses
from alarmdigest.observability.other_instances import EFFECTS, OtherInstances
from alarmdigest.observability.snapshots import snapshot_metrics
from alarmdigest.observability.stream_changes import stream_changes
from alarmdigest.pipeline.listener import Listener
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime import log_writer
from alarmdigest.runtime.counters import Counter


class ServiceCollector:
    """Reads one service. Names: prefix ``alarmdigest_``, base units, no ids in labels."""

    def __init__(self, service: Service, others: OtherInstances) -> None:
        self._service = service
        self._others = others

    def collect(self) -> Iterator[Metric]:
        for family in self._families():
            yield family
            yield from deprecated_alias(family)
        yield dropped_total(self._service)

    def _families(self) -> Iterator[Metric]:
        yield from self._state()
        yield from self._input()
        yield from self._books()
        yield from self._output()
        yield from self._checkpoints()
        yield from group_metrics(self._service)
        yield from snapshot_metrics(self._service)
        yield from dependency_metrics(self._service)
        yield from duration_metrics(self._service)

    def _state(self) -> Iterator[Metric]:
        service = self._service
        info = GaugeMetricFamily(
            "alarmdigest_info", "Always 1: what is running.", labels=["version", "mode"]
        )
        info.add_metric([__version__, service.mode], 1)
        yield info
        yield GaugeMetricFamily(
            "alarmdigest_ready",
            "1 while /readyz says ok, else 0.",
            value=not readiness_failures(service),
        )
        others = GaugeMetricFamily(
            "alarmdigest_other_instances",
            "Other services heard lately that answer the same requests, by what that does to a "
            "digest: twice, or once_in_stream.",
            labels=["digests"],
        )
        for effect in EFFECTS:
            others.add_metric([effect], self._others.count(effect))
        yield others
        lost = CounterMetricFamily(
            "alarmdigest_lost", "Messages lost, by the place where they were.", labels=["place"]
        )
        for place, count in losses(service).items():
            lost.add_metric([place], count)
        yield lost
        changes = CounterMetricFamily(
            "alarmdigest_stream_changes",
            "Times that a stream was another one than before, or had lost its newest messages.",
            labels=["change"],
        )
        for change, count in stream_changes(service).items():
            changes.add_metric([change], count)
        yield changes
        reconnects = CounterMetricFamily(
            "alarmdigest_reconnects", "Connections after the first.", labels=["connection"]
        )
        for name, thread in (("listener", service.listener), ("publisher", service.publisher)):
            reconnects.add_metric(
                [name], thread.reconnector.reconnects if thread is not None else 0
            )
        yield reconnects
        yield CounterMetricFamily(
            "alarmdigest_log_lines_dropped",
            "Log lines that stderr did not take: it hung, was closed, or its disk was full.",
            value=log_writer.lines_dropped(),
        )

    def _input(self) -> Iterator[Metric]:
        listener, rejections = self._service.listener, self._service.rejections
        rejected = CounterMetricFamily(
            "alarmdigest_rejected", "Messages rejected, by reason.", labels=["reason"]
        )
        for reason, count in rejections.by_reason.items():
            rejected.add_metric([reason], count)
        yield rejected
        yield CounterMetricFamily(
            "alarmdigest_rejected_sampled_out",
            "Rejected messages that were counted only, since too many came: core mode.",
            value=rejections.sampled_out,
        )
        if listener is None:
            return
        router = listener.router
        received = CounterMetricFamily(
            "alarmdigest_received", "Messages read, rejected ones included.", labels=["kind"]
        )
        received.add_metric(["event"], router.events)
        received.add_metric(["request"], router.requests)
        received.add_metric(["forget"], router.forgets)
        yield received
        yield CounterMetricFamily(
            "alarmdigest_slow_path",
            "Messages that were not of the plain shape, read the slow way; rejected ones included.",
            value=router.slow_path,
        )
        yield CounterMetricFamily(
            "alarmdigest_clamped",
            "Events whose ChangedAt was further in the future than the permitted skew.",
            value=router.clamped,
        )
        ahead_s = (router.arrival_ns - time.time_ns()) / 1e9
        yield GaugeMetricFamily(
            "alarmdigest_arrival_ahead_seconds",
            "The arrival clock, that of the newest message, minus our clock; 0 before the first.",
            value=ahead_s if router.arrival_ns else 0.0,
        )
        yield CounterMetricFamily(
            "alarmdigest_clock_steps",
            "Times that the clock which arrivals depend on has stepped by more than a day: the "
            "stream's forwards, in core mode ours.",
            value=listener.source.arrival_steps + router.arrival_steps,
        )
        yield GaugeMetricFamily(
            "alarmdigest_backlog_bytes", "Routed, not yet merged.", value=listener.backlog_bytes
        )
        yield CounterMetricFamily(
            "alarmdigest_listener_connections_lost",
            "Connection losses of the listener. In core mode nobody knows what was missed.",
            value=listener.connections_lost,
        )
        yield from _of(listener.source.counters(router))
        if self._service.mode == "stream":
            yield from self._stream(listener)

    def _stream(self, listener: Listener) -> Iterator[Metric]:
        router, behind = listener.router, listener.behind
        yield GaugeMetricFamily(
            "alarmdigest_stream_position", "The last message routed.", value=router.sequence
        )
        yield GaugeMetricFamily(
            "alarmdigest_stream_lag",
            "Messages that the stream holds behind it; NaN while nobody can tell.",
            value=math.nan if behind is None else behind,
        )
        # The stream's clock against ours: they may be of two machines.
        age_s = max(0.0, time.time() - router.timestamp_ns / 1e9) if router.timestamp_ns else 0.0
        yield GaugeMetricFamily(
            "alarmdigest_stream_lag_seconds",
            "Age of the last message routed, while the stream holds more; NaN while nobody can "
            "tell.",
            value=math.nan if behind is None else age_s if behind else 0.0,
        )
        yield CounterMetricFamily(
            "alarmdigest_stream_delivery_gaps",
            "Times that deliveries were lost on their way, and read again.",
            value=listener.delivery_gaps,
        )

    def _books(self) -> Iterator[Metric]:
        books = [worker.book for worker in self._service.workers]
        totals: dict[str, int] = {}
        for book in books:
            for name, count in book.counters.items():
                totals[name] = totals.get(name, 0) + count
        texts = {
            "events": "Events merged.",
            "late": "Events that arrived behind a newer one of their alarm.",
            "repeated": "Events equal to the latest of their alarm.",
            "forgotten": "Cleared alarms that were past their retention at their next event.",
            "swept": "Cleared alarms removed once they were past their retention.",
            "requests": "Digest requests answered, with or without a digest.",
            "empty_requests": "Digest requests with nothing due.",
            "digests": "Digest messages made, the parts of a split one singly.",
            "alarms_sent": "Alarms in digests.",
            "forget_users": "Times that a user was to be forgotten, whether he was known or not.",
            "forgotten_with_user": "Alarms that were forgotten with their user.",
        }
        for name, text in texts.items():
            yield CounterMetricFamily(f"alarmdigest_book_{name}", text, value=totals.get(name, 0))
        yield GaugeMetricFamily(
            "alarmdigest_alarms",
            "Alarms held, cleared ones included.",
            value=sum(book.alarm_count for book in books),
        )
        yield GaugeMetricFamily(
            "alarmdigest_active_alarms",
            "Alarms that are WARNING or CRITICAL.",
            value=sum(book.active_count for book in books),
        )
        yield GaugeMetricFamily(
            "alarmdigest_due_alarms",
            "Alarms that the next digests of their users would hold.",
            value=sum(book.due_count for book in books),
        )
        yield GaugeMetricFamily(
            "alarmdigest_users", "Users known.", value=sum(book.user_count for book in books)
        )
        yield GaugeMetricFamily(
            "alarmdigest_book_bytes",
            "Memory that the alarm books hold.",
            value=sum(book.held_bytes for book in books),
        )
        yield from self._queues()

    def _queues(self) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "alarmdigest_queue_age_seconds",
            "Since the first batch in a queue was read from the socket; 0 when none waits.",
            labels=["queue"],
        )
        depth = GaugeMetricFamily(
            "alarmdigest_queue_batches", "Batches waiting in a queue.", labels=["queue"]
        )
        for worker in self._service.workers:
            depth.add_metric([worker.name], worker.queue.qsize())
            age.add_metric([worker.name], oldest_age_s(worker.queue))
        if self._service.publisher is not None:
            queue = self._service.publisher.queue
            depth.add_metric(["publisher"], len(queue.queue))
            age.add_metric(["publisher"], oldest_age_s(queue))
            size = GaugeMetricFamily(
                "alarmdigest_queue_bytes", "Bytes waiting in a queue.", labels=["queue"]
            )
            size.add_metric(["publisher"], queue.qsize())
            yield size
        yield depth
        yield age

    def _output(self) -> Iterator[Metric]:
        publisher = self._service.publisher
        if publisher is None:
            return
        confirmer = publisher.confirmer
        published = CounterMetricFamily(
            "alarmdigest_published", "Messages that the server has confirmed.", labels=["kind"]
        )
        published.add_metric(["digest"], confirmer.digests)
        published.add_metric(["rejection"], confirmer.rejections)
        yield published
        yield CounterMetricFamily(
            "alarmdigest_resent", "Messages sent again, with the same ids.", value=confirmer.resent
        )
        yield GaugeMetricFamily(
            "alarmdigest_unconfirmed_bytes",
            "Sent, not yet confirmed.",
            value=publisher.window.bytes,
        )
        yield GaugeMetricFamily(
            "alarmdigest_unconfirmed_age_seconds",
            "How long the oldest message that is not confirmed has been with the publisher.",
            value=publisher.window.oldest_unconfirmed_s,
        )
        yield GaugeMetricFamily(
            "alarmdigest_publisher_blocked",
            "1 while digests cannot be published although a server is there.",
            value=publisher.blocked_reason is not None,
        )
        yield from _of(confirmer.counters())

    def _checkpoints(self) -> Iterator[Metric]:
        checkpointer = self._service.checkpointer
        if checkpointer is None:
            return
        yield CounterMetricFamily(
            "alarmdigest_checkpoints", "Checkpoints written.", value=checkpointer.written
        )
        yield CounterMetricFamily(
            "alarmdigest_checkpoint_failures",
            "Attempts to write a checkpoint that failed; each is repeated.",
            value=checkpointer.failures,
        )
        yield GaugeMetricFamily(
            "alarmdigest_checkpoint_age_seconds",
            "Since everything up to a barrier was last in the store.",
            value=time.monotonic() - checkpointer.completed_at,
        )
        yield GaugeMetricFamily(
            "alarmdigest_checkpoint_bytes", "Rows of the last one.", value=checkpointer.rows_bytes
        )
        yield GaugeMetricFamily(
            "alarmdigest_checkpoint_seconds",
            "How long the last one took to write.",
            value=checkpointer.write_seconds,
        )
        yield GaugeMetricFamily(
            "alarmdigest_store_unfolded_bytes",
            "Rows in Cassandra's journals that are still to be written to where they belong.",
            value=checkpointer.store.unfolded_bytes,
        )
        yield CounterMetricFamily(
            "alarmdigest_store_rewritten",
            "Times that all rows were written to Cassandra anew.",
            value=checkpointer.store.rewritten,
        )


def _of(counters: Iterable[Counter]) -> Iterator[Metric]:
    for one in counters:
        yield CounterMetricFamily(f"alarmdigest_{one.name}", one.help, value=one.value)


def registry_of(service: Service, others: OtherInstances) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service, others))
    ProcessCollector(registry=registry)  # process_*: memory, descriptors, processor time
    return registry
