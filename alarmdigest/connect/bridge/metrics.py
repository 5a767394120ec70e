"""The bridge's counters as Prometheus metrics; docs/bridge.md lists them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from alarmdigest.connect.bridge.publisher import Publisher
from alarmdigest.connect.bridge.receiver import Receiver
from alarmdigest.connect.metric_families import MetricFamilies
from alarmdigest.http.bounded import places
from alarmdigest.runtime.histogram import cumulated

PREFIX = "alarmdigest_bridge_"


class BridgeCollector:
    """Reads a bridge."""

    def __init__(self, publisher: Publisher, receiver: Receiver) -> None:
        self._publisher = publisher
        self._receiver = receiver

    def collect(self) -> Iterator[Metric]:
        publisher, receiver = self._publisher, self._receiver
        make = MetricFamilies(PREFIX)
        yield make.info()
        yield make.gauge("ready", "1 while alerts are taken.", not receiver.readiness_failures())
        yield make.gauge("connections", "HTTP connections that are open.", len(places))
        yield make.gauge(
            "unconfirmed_requests",
            "Requests that wait for JetStream's confirmation.",
            receiver.unconfirmed,
        )
        yield make.gauge(
            "waiting", "Messages that wait for NATS, and their requests.", publisher.queue.qsize()
        )
        yield make.gauge(
            "remembered", "Alarms whose last CLEARED is remembered.", len(publisher.batches.times)
        )
        requests = CounterMetricFamily(
            PREFIX + "requests", "Requests, by sender and answer.", labels=["sender", "code"]
        )
        for (sender, code), count in sorted(receiver.requests.items()):
            requests.add_metric([sender, str(code)], count)
        yield requests
        alerts = CounterMetricFamily(
            PREFIX + "alerts",
            "What requests held: alarms (one for each user), rejected alerts, unreadable bodies, "
            "and what is no alarm's news.",
            labels=["sender", "result"],
        )
        for (sender, result), count in sorted(receiver.alerts.items()):
            alerts.add_metric([sender, result], count)
        yield alerts
        times = CounterMetricFamily(
            PREFIX + "times_replaced",
            "Alarms that got the time of their receipt, by what was wrong with the sender's.",
            labels=["why"],
        )
        for why, count in publisher.batches.times.counts.items():
            times.add_metric([why], count)
        yield times
        yield make.counter(
            "published", "Messages that a stream has stored.", publisher.batches.published
        )
        yield make.counter(
            "duplicates", "Messages that a stream had stored before.", publisher.batches.duplicates
        )
        yield make.counter(
            "failed", "Requests that were not confirmed; senders repeat them.", publisher.failed
        )
        yield make.counter(
            "details_written", "Entries of details.", publisher.batches.details_written
        )
        yield make.counter(
            "details_failed", "Entries of details that are lost.", publisher.batches.details_failed
        )
        yield make.counter(
            "reconnects",
            "Connections to NATS after the first.",
            publisher.reconnector.reconnects,
        )
        confirming = HistogramMetricFamily(
            PREFIX + "confirm_seconds",
            "From the end of a request to the last confirmation of its messages.",
            labels=[],
        )
        confirming.add_metric([], *cumulated([publisher.confirming]))
        yield confirming
