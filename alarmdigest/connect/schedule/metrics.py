"""The scheduler's counters as Prometheus metrics; docs/schedules.md lists them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import HistogramMetricFamily, Metric

from alarmdigest.connect.metric_families import MetricFamilies
from alarmdigest.connect.schedule.work import SchedulerWork
from alarmdigest.runtime.histogram import cumulated

PREFIX = "alarmdigest_scheduler_"


class SchedulerCollector:
    """Reads a scheduler."""

    def __init__(self, work: SchedulerWork) -> None:
        self._work = work

    def collect(self) -> Iterator[Metric]:
        scheduler, news = self._work.scheduler, self._work.news
        make = MetricFamilies(PREFIX)
        yield make.info()
        yield make.gauge("ready", "1 while requests can be published.", not scheduler.blocked)
        yield make.gauge("acting", "1 for the one of several that acts.", scheduler.acting)
        yield make.gauge(
            "hears_service",
            "1 while the service says who is due.",
            not (news.deaf or scheduler.watching.unanswered),
        )
        yield make.gauge(
            "schedules", "Users who have a schedule or a pause.", len(scheduler.schedules)
        )
        yield make.gauge(
            "waiting", "Users who are due and whose time is to come.", len(scheduler.agenda)
        )
        next_ns = scheduler.agenda.next_ns
        yield make.gauge(
            "next_timestamp_seconds",
            "When the next request is sent, in seconds since 1970; 0 for none.",
            (next_ns or 0) / 1e9,
        )
        yield make.counter("requests", "Requests that the stream has stored.", scheduler.requests)
        yield make.counter(
            "duplicates", "Requests that the stream had stored before.", scheduler.duplicates
        )
        yield make.counter(
            "failed", "Requests that were not stored; they are sent again.", scheduler.failed
        )
        yield make.counter(
            "news", "Messages of the service about who became due.", scheduler.watching.heard
        )
        yield make.counter("listings", "Lists of all who are due.", scheduler.watching.listings)
        yield make.counter(
            "unreadable",
            "Entries that are no schedule, and news that are none.",
            scheduler.schedules.unreadable + news.unreadable,
        )
        yield make.counter(
            "from_the_future",
            "Users who were due since a time that our clock had not reached.",
            scheduler.from_the_future,
        )
        yield make.counter(
            "reconnects", "Connections to NATS after the first.", scheduler.reconnector.reconnects
        )
        late = HistogramMetricFamily(
            PREFIX + "late_seconds", "How much later than its time a request was stored.", labels=[]
        )
        late.add_metric([], *cumulated([scheduler.lateness]))
        yield late
