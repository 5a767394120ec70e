"""The service's counters as Prometheus metrics.

Every thread counts for itself in plain integers; they are read, without a lock, when somebody
scrapes. A number may be a moment old, but none is ever half written.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from alarmdigest.service import Service


class ServiceCollector:
    """Reads one service. Names: prefix ``alarmdigest_``, base units, no ids in labels."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from self._input()
        yield from self._books()
        yield from self._output()

    def _input(self) -> Iterator[Metric]:
        listener, desk = self._service.listener, self._service.desk
        refused = CounterMetricFamily(
            "alarmdigest_refused", "Messages refused, by reason.", labels=["reason"]
        )
        for reason, count in desk.by_reason.items():
            refused.add_metric([reason], count)
        yield refused
        if listener is None:
            return
        router = listener.router
        received = CounterMetricFamily(
            "alarmdigest_received", "Messages read, refused ones included.", labels=["kind"]
        )
        received.add_metric(["event"], router.events)
        received.add_metric(["request"], router.requests)
        yield received
        dropped = CounterMetricFamily(
            "alarmdigest_dropped",
            "Messages lost in this process: by the reader when workers lag, "
            "or refusals that could not be published.",
            labels=["kind"],
        )
        dropped.add_metric(["event"], router.dropped_events)
        dropped.add_metric(["request"], router.dropped_requests)
        dropped.add_metric(
            ["refusal"], desk.unpublished + self._service.publisher.refusals_given_up
        )
        yield dropped
        yield CounterMetricFamily(
            "alarmdigest_clamped",
            "Events whose ChangedAt was further in the future than the permitted skew.",
            value=router.clamped,
        )
        yield GaugeMetricFamily(
            "alarmdigest_backlog_bytes", "Routed, not yet merged.", value=listener.backlog_bytes
        )
        yield CounterMetricFamily(
            "alarmdigest_subscriber_connections_lost",
            "Connection losses of the subscriber. In core mode nobody knows what was missed.",
            value=listener.connections_lost,
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
            "requests": "Digest requests answered, with or without a digest.",
            "empty_requests": "Digest requests with nothing due.",
            "digests": "Digest messages made, the parts of a split one singly.",
            "alarms_sent": "Alarms in digests.",
        }
        for name, text in texts.items():
            yield CounterMetricFamily(f"alarmdigest_book_{name}", text, value=totals.get(name, 0))
        yield GaugeMetricFamily(
            "alarmdigest_alarms",
            "Alarms held, cleared ones included.",
            value=sum(book.alarm_count for book in books),
        )
        yield GaugeMetricFamily(
            "alarmdigest_users", "Users known.", value=sum(book.user_count for book in books)
        )
        depth = GaugeMetricFamily(
            "alarmdigest_queue_batches", "Batches waiting in a queue.", labels=["queue"]
        )
        for worker in self._service.workers:
            depth.add_metric([worker.name], worker.queue.qsize())
        depth.add_metric(["publisher"], self._service.publisher.queue.qsize())
        yield depth

    def _output(self) -> Iterator[Metric]:
        publisher = self._service.publisher
        published = CounterMetricFamily(
            "alarmdigest_published", "Messages that the server has confirmed.", labels=["kind"]
        )
        published.add_metric(["digest"], publisher.digests)
        published.add_metric(["refusal"], publisher.refusals)
        yield published
        yield CounterMetricFamily(
            "alarmdigest_resent", "Messages sent again, with the same ids.", value=publisher.resent
        )
        yield GaugeMetricFamily(
            "alarmdigest_unconfirmed_bytes",
            "Sent, not yet confirmed.",
            value=publisher.unconfirmed_bytes,
        )
        yield CounterMetricFamily(
            "alarmdigest_publisher_reconnects",
            "Connections of the publisher after the first.",
            value=publisher.reconnects,
        )


def registry_of(service: Service) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    return registry
