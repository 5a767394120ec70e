"""The page, metrics and health of one service, over HTTP."""

from __future__ import annotations

import logging

from alarmdigest.http.server import HttpThread, listen
from alarmdigest.http.short import ShortConnection
from alarmdigest.observability.metrics import registry_of
from alarmdigest.observability.other_instances import OtherInstances
from alarmdigest.observability.pages import Pages
from alarmdigest.observability.status import Status
from alarmdigest.observability.way import Way
from alarmdigest.pipeline.service import Service
from alarmdigest.runtime.logs import Fields
from alarmdigest.settings import HttpAddress, SettingsError

log = logging.getLogger(__name__)


class HttpServer:
    """Serves one service from a thread named ``http``."""

    def __init__(
        self, service: Service, others: OtherInstances, way: Way, address: HttpAddress
    ) -> None:
        """Raises SettingsError when the address cannot be had and may not be another."""
        host, port, may_move = address
        try:
            listening = listen(host, port)
        except OSError as error:
            if not may_move:
                place = address.url.removeprefix("http://")
                raise SettingsError(
                    f"--http {place}: {error.strerror}; choose another port, or --http off"
                ) from error
            listening = listen(host, 0)
            log.warning("port %d is taken, HTTP moves to another one", port)
        self.url = HttpAddress(host, listening.getsockname()[1]).url
        status = Status(service, others, way)
        pages = Pages(service, registry_of(service, others), status, host)
        self._thread = HttpThread(
            pages, listening, protocol=ShortConnection, every_second=status.remember
        )

    def start(self) -> None:
        self._thread.start()
        # Without its paths: scripts wait for the word "ready", and /readyz would be it too early.
        log.info("http listening%s", Fields(on=self.url))

    def stop(self) -> None:
        self._thread.stop()
