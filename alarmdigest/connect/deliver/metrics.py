"""Deliver's counters as Prometheus metrics; docs/deliver.md lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from alarmdigest.connect.deliver.dead_letters import REASONS
from alarmdigest.connect.deliver.work import DeliverWork
from alarmdigest.connect.metric_families import MetricFamilies
from alarmdigest.runtime.histogram import cumulated

PREFIX = "alarmdigest_deliver_"


class DeliverCollector:
    """Reads a deliver process."""

    def __init__(self, work: DeliverWork) -> None:
        self._work = work

    def collect(self) -> Iterator[Metric]:
        work, deliverer = self._work, self._work.deliverer
        lanes, settling = deliverer.lanes, deliverer.settling
        make = MetricFamilies(PREFIX)
        yield make.info()
        yield make.gauge("ready", "1 while digests can be delivered.", not work.blocked)
        yield make.gauge("acting", "1 in the process that delivers.", deliverer.acting)
        yield make.gauge("held", "Digests that are not acknowledged.", len(deliverer.held))
        yield make.gauge("held_bytes", "What these take.", deliverer.held.size)
        figures = lanes.figures()
        yield make.gauge("waiting", "Messages that wait for a target.", figures.waiting)
        yield make.gauge("lanes_blocked", "Addresses whose last attempt failed.", figures.blocked)
        yield make.gauge("oldest_seconds", "How long the oldest one waits.", figures.oldest_s)
        yield make.gauge("hanging", "Sends that hang.", work.pool.hanging)
        yield _labelled("sent", "Messages that were taken.", "target", settling.sent)
        dead = {reason: settling.dead[reason] for reason in REASONS}
        yield _labelled("dead", "Messages that became dead letters.", "reason", dead)
        yield make.counter("failed", "Attempts that failed.", lanes.failed_attempts)
        yield make.counter("retries", "Attempts after a failed one.", lanes.retries)
        yield make.counter(
            "duplicates", "Messages that had been sent before.", deliverer.dispatch.duplicates
        )
        yield make.counter(
            "filtered",
            "Messages that were not bad enough for a target.",
            deliverer.dispatch.filtered,
        )
        yield make.counter(
            "render_failures",
            "Messages that the built-in templates had to make.",
            work.renderers.failures,
        )
        yield make.counter(
            "state_unknown",
            "Messages without what else is active: the service did not answer.",
            deliverer.composer.state_unknown,
        )
        yield make.counter(
            "unrecorded", "Entries of what was delivered that are lost.", settling.unrecorded
        )
        yield make.counter(
            "reconnects", "Connections to NATS after the first.", deliverer.reconnector.reconnects
        )
        sending = HistogramMetricFamily(
            PREFIX + "seconds", "From the digest's time in its stream to the send.", labels=[]
        )
        sending.add_metric([], *cumulated([settling.sending_s]))
        yield sending


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family
