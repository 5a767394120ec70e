"""How long the stages of the pipeline take, as Prometheus histograms; the age of a queue."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import HistogramMetricFamily, Metric

from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.histogram import Histogram, cumulated


def duration_metrics(service: Service) -> Iterator[Metric]:
    """Each histogram has all its stages from the start, with 0."""
    listener, publisher, workers = service.listener, service.publisher, service.workers
    publishers = [publisher] if publisher is not None else []
    stages = HistogramMetricFamily(
        "alarmdigest_stage_seconds", "Durations of a stage, once per batch.", labels=["stage"]
    )
    _add(stages, ["route"], [listener.routing] if listener is not None else [])
    _add(stages, ["wait"], [worker.waited for worker in workers])
    _add(stages, ["merge"], [worker.merging for worker in workers])
    _add(stages, ["send"], [one.sending for one in publishers])
    _add(stages, ["confirm"], [one.window.confirming for one in publishers])
    yield stages
    requests = HistogramMetricFamily(
        "alarmdigest_request_seconds",
        "From reading a request to handing its digest to the socket, once per request.",
        labels=[],
    )
    _add(requests, [], [one.window.answering for one in publishers])
    yield requests
    checkpoints = HistogramMetricFamily(
        "alarmdigest_checkpoint_stage_seconds", "Durations in a checkpoint.", labels=["stage"]
    )
    checkpointer = service.checkpointer
    _add(checkpoints, ["gather"], [checkpointer.completing] if checkpointer is not None else [])
    _add(checkpoints, ["write"], [checkpointer.writing] if checkpointer is not None else [])
    yield checkpoints


def _add(family: HistogramMetricFamily, labels: list[str], parts: Iterable[Histogram]) -> None:
    """Add one sample: the sum of the histograms that several threads keep."""
    family.add_metric(labels, *cumulated(parts))


def oldest_age_s(waiting: queue.Queue[Any]) -> float:
    """Seconds since the first item in a queue was read from the socket; 0 when it is empty."""
    now = time.monotonic()
    try:
        first = waiting.queue[0]
    except IndexError:
        return 0.0
    # Questions, and the end, have no age.
    return max(0.0, now - getattr(first, "age_from", now))
