"""Metrics under the names that they used to have: valid for one more release, then gone."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

from prometheus_client.core import CounterMetricFamily, Metric

from alarmdigest.observability.losses import losses
from alarmdigest.pipeline.service import Service

# New name -> old name, without the ending that a counter has.
OLD_NAMES = {
    "alarmdigest_rejected": "alarmdigest_refused",
    "alarmdigest_slow_path": "alarmdigest_odd",
    "alarmdigest_stream_redelivered": "alarmdigest_stream_known_again",
    "alarmdigest_stream_unread_lost": "alarmdigest_stream_gone",
    "alarmdigest_replay_suppressed": "alarmdigest_found_again",
    "alarmdigest_publisher_blocked": "alarmdigest_publisher_held",
    "alarmdigest_listener_connections_lost": "alarmdigest_subscriber_connections_lost",
}


def dropped_total(service: Service) -> Metric:
    """``alarmdigest_dropped_total``, whose numbers are in ``alarmdigest_lost_total`` now."""
    family = CounterMetricFamily(
        "alarmdigest_dropped", "Old form of alarmdigest_lost_total.", labels=["kind"]
    )
    if (listener := service.listener) is not None:
        family.add_metric(["event"], listener.router.dropped_events)
        family.add_metric(["request"], listener.router.dropped_requests)
    lost = losses(service)
    family.add_metric(["refusal"], lost["rejection_queue"] + lost["rejection_publisher"])
    return family


def deprecated_alias(family: Metric) -> Iterator[Metric]:
    """The same samples under the name that the family used to have, if it had another one."""
    if (old := OLD_NAMES.get(family.name)) is None:
        return
    alias = copy(family)
    alias.name = old
    alias.documentation = f"Old name of {family.name}; gone in the next release."
    alias.samples = [
        sample._replace(name=sample.name.replace(family.name, old, 1)) for sample in family.samples
    ]
    yield alias
