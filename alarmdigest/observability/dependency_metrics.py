"""What the service depends on, as Prometheus metrics: connections to NATS, and the disk."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from alarmdigest.observability.disk import free_bytes, store_bytes
from alarmdigest.observability.identity import connections
from alarmdigest.pipeline.service import Service


def dependency_metrics(service: Service) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "alarmdigest_connected", "1 while this connection is open, else 0.", labels=["connection"]
    )
    servers = GaugeMetricFamily(
        "alarmdigest_server_info",
        "Always 1: the server that a connection was opened to last.",
        labels=["connection", "server", "server_name", "version"],
    )
    for one in connections(service):
        connected.add_metric([one["name"]], one["connected"])
        if one["server"] is not None:
            names = (one["server"], one["server_name"], one["server_version"])
            servers.add_metric([one["name"], *(str(name or "") for name in names)], 1)
    yield connected
    yield servers
    data_dir = service.settings.data_dir
    yield GaugeMetricFamily(
        "alarmdigest_store_bytes", "What the store takes on its disk.", value=store_bytes(data_dir)
    )
    free = free_bytes(data_dir)
    if free is not None:
        yield GaugeMetricFamily(
            "alarmdigest_disk_free_bytes", "What is free where the data directory is.", value=free
        )
