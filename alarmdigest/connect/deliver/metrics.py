"""Deliver's counters as Prometheus metrics; docs/deliver.md lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from alarmdigest import __version__
from alarmdigest.connect.deliver.dead_letters import REASONS
from alarmdigest.connect.deliver.work import DeliverWork
from alarmdigest.runtime.histogram import cumulated

PREFIX = "alarmdigest_deliver_"


class DeliverCollector:
    """Reads a deliver process."""

    def __init__(self, work: DeliverWork) -> None:
        self._work = work

    def collect(self) -> Iterator[Metric]:
        work, deliverer = self._work, self._work.deliverer
        lanes, settling = deliverer.lanes, deliverer.settling
        info = GaugeMetricFamily(PREFIX + "info", "Always 1: what is running.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield _gauge("ready", "1 while digests can be delivered.", not work.blocked)
        yield _gauge("acting", "1 in the process that delivers.", deliverer.acting)
        yield _gauge("held", "Digests that are not acknowledged.", len(deliverer.held))
        yield _gauge("held_bytes", "What these take.", deliverer.held.size)
        figures = lanes.figures()
        yield _gauge("waiting", "Messages that wait for a target.", figures.waiting)
        yield _gauge("lanes_blocked", "Addresses whose last attempt failed.", figures.blocked)
        yield _gauge("oldest_seconds", "How long the oldest one waits.", figures.oldest_s)
        yield _gauge("hanging", "Sends that hang.", work.pool.hanging)
        yield _labelled("sent", "Messages that were taken.", "target", settling.sent)
        dead = {reason: settling.dead[reason] for reason in REASONS}
        yield _labelled("dead", "Messages that became dead letters.", "reason", dead)
        yield _counter("failed", "Attempts that failed.", lanes.failed_attempts)
        yield _counter("retries", "Attempts after a failed one.", lanes.retries)
        yield _counter(
            "duplicates", "Messages that had been sent before.", deliverer.dispatch.duplicates
        )
        yield _counter(
            "filtered",
            "Messages that were not bad enough for a target.",
            deliverer.dispatch.filtered,
        )
        yield _counter(
            "render_failures",
            "Messages that the built-in templates had to make.",
            work.renderers.failures,
        )
        yield _counter(
            "state_unknown",
            "Messages without what else is active: the service did not answer.",
            deliverer.composer.state_unknown,
        )
        yield _counter(
            "unrecorded", "Entries of what was delivered that are lost.", settling.unrecorded
        )
        yield _counter(
            "reconnects", "Connections to NATS after the first.", deliverer.reconnector.reconnects
        )
        sending = HistogramMetricFamily(
            PREFIX + "seconds", "From the digest's time in its stream to the send.", labels=[]
        )
        sending.add_metric([], *cumulated([settling.sending_s]))
        yield sending


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family
