"""What is known of snapshots, for the metrics and for ``status``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from alarmdigest._ext import timestamps
from alarmdigest.pipeline.service import Service


def snapshot_metrics(service: Service) -> Iterator[Metric]:
    maker = service.snapshots
    newest = maker.newest if maker is not None else None
    yield GaugeMetricFamily(
        "alarmdigest_snapshot_age_seconds",
        "Since the newest usable snapshot was stored, whoever made it; NaN while none is known.",
        value=math.nan if newest is None else _age_s(newest.stored_at_ns),
    )
    yield GaugeMetricFamily(
        "alarmdigest_snapshot_bytes",
        "Size of the newest usable snapshot; 0 while none is known.",
        value=newest.size if newest is not None else 0,
    )
    yield GaugeMetricFamily(
        "alarmdigest_snapshot_seconds",
        "How long the last snapshot that we made took to copy and store.",
        value=maker.seconds if maker is not None else 0.0,
    )
    yield CounterMetricFamily(
        "alarmdigest_snapshots",
        "Snapshots that we made.",
        value=maker.made if maker is not None else 0,
    )
    yield CounterMetricFamily(
        "alarmdigest_snapshot_failures",
        "Attempts to make a snapshot, or to look for the newest, that failed; each is repeated.",
        value=maker.failures if maker is not None else 0,
    )


def snapshot_status(service: Service) -> dict[str, Any] | None:
    """None where none are kept."""
    maker = service.snapshots
    if maker is None:
        return None
    newest = maker.newest
    return {
        "made": maker.made,
        "failures": maker.failures,
        "seconds": round(maker.seconds, 3),
        "newest": None
        if newest is None
        else {
            "name": newest.name,
            "position": newest.sequence,
            "bytes": newest.size,
            "stored_at": timestamps.to_text(newest.stored_at_ns),
            "age_seconds": round(_age_s(newest.stored_at_ns), 1),
            "made_by": newest.about.get("made_by", ""),
        },
    }


def _age_s(stored_at_ns: int) -> float:
    """By two clocks, the server's and ours: not below 0."""
    return max(0.0, (time.time_ns() - stored_at_ns) / 1e9)
