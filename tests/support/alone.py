"""The service as `make run` starts it: without a server's name, so that it brings its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from alarmdigest.nats.embedded.discovery import server_name_at
from support.faults import patched
from support.nats_server import HOST, free_port
from support.service import ServiceProcess

PORT = "import alarmdigest.process.runner\nalarmdigest.process.runner.LOCAL_PORT = {}"


class Alone(ServiceProcess):
    """A service without a server's name, which therefore looks at a port, here one of its own."""

    def __init__(
        self,
        port: int | None = None,
        *,
        code: str = "",
        mode: str = "core",
        options: Sequence[str] = (),
    ) -> None:
        self.port = port or free_port()
        self.url = f"nats://{HOST}:{self.port}"
        program = patched(PORT.format(self.port) + "\n" + code)
        super().__init__(program=program, mode=mode, options=options)

    def __enter__(self) -> Alone:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            with suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(self.server_pid(), signal.SIGKILL)
        finally:
            super().__exit__(*error)  # type: ignore[arg-type]

    def server_pid(self) -> int:
        return int((self.data_dir / "nats" / "server.pid").read_text())

    def server_is_gone(self) -> bool:
        return server_name_at(HOST, self.port, 1.0) is None
