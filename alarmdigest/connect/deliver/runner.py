"""The command ``deliver`` as a process."""

from __future__ import annotations

from pathlib import Path

from alarmdigest.connect.deliver.metrics import DeliverCollector
from alarmdigest.connect.deliver.routes_file import read_routes
from alarmdigest.connect.deliver.work import DeliverWork
from alarmdigest.connect.process_runner import ProcessRunner, Work
from alarmdigest.settings import Settings


def run(settings: Settings, routes_file: Path | None, listen_on: str) -> int:
    """The exit code. Raises SettingsError."""

    def collector(work: Work) -> DeliverCollector:
        assert isinstance(work, DeliverWork)
        return DeliverCollector(work)

    return ProcessRunner(
        "deliver",
        settings,
        listen_on,
        lambda on_failure: DeliverWork(settings, lambda: read_routes(routes_file), on_failure),
        collector,
    ).run()
