"""Metrics of one process, under its prefix."""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from alarmdigest import __version__


class MetricFamilies:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def info(self) -> Metric:
        info = GaugeMetricFamily(
            self._prefix + "info", "Always 1: what is running.", labels=["version"]
        )
        info.add_metric([__version__], 1)
        return info

    def gauge(self, name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(self._prefix + name, text, value=value)

    def counter(self, name: str, text: str, value: int) -> Metric:
        return CounterMetricFamily(self._prefix + name, text, value=value)
