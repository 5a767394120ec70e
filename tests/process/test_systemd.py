"""What systemd hears of the service, over a real socket."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bus import Bus
from support.faults import patched, request
from support.nats_server import HOST, NatsServer, free_port
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.process.supervisor import Supervisor


class Systemd:
    """The other end of NOTIFY_SOCKET: keeps every line that comes."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._socket.setblocking(False)
        self._lines: list[str] = []

    @property
    def lines(self) -> list[str]:
        try:
            while True:
                self._lines += self._socket.recv(65536).decode().split("\n")
        except BlockingIOError:
            return self._lines

    def count(self, line: str) -> int:
        return self.lines.count(line)

    def wait_for(self, line: str) -> None:
        eventually(lambda: line in self.lines, what=f"{line} among {self.lines}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    name = f"alarmdigest-test-{os.getpid()}"
    opened = Systemd(str(tmp_path / "n") if request.param == "path" else f"@{name}")
    yield opened
    opened.close()


def environment(systemd: Systemd, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": systemd.address, **more}


def test_it_says_ready_when_it_is_and_stopping_when_it_drains(systemd: Systemd) -> None:
    port = free_port()
    service = ServiceProcess(f"nats://{HOST}:{port}", environment=environment(systemd))
    with NatsServer(port=port) as server:
        server.stop()
        service.start(ready=False).wait_for_log("cannot connect")
        assert systemd.lines == []
        server.start()
        systemd.wait_for("READY=1")
        systemd.wait_for("STATUS=ready")
        assert service.http("/readyz") == (200, "ok\n")
        assert "STOPPING=1" not in systemd.lines
        assert service.stop() == 0
        assert systemd.lines.index("READY=1") < systemd.lines.index("STOPPING=1")
        assert "WATCHDOG=1" not in systemd.lines, "nobody asked for it"


def test_the_status_tells_what_is_wrong_while_the_watchdog_is_fed(systemd: Systemd) -> None:
    fed = environment(systemd, WATCHDOG_USEC="1000000")
    with NatsServer() as server, ServiceProcess(server.url, environment=fed):
        systemd.wait_for("STATUS=ready")
        server.kill()
        eventually(
            lambda: any(re.match("STATUS=.*publisher has no connection", x) for x in systemd.lines),
            what="the reason",
        )
        before = systemd.count("WATCHDOG=1")
        eventually(lambda: systemd.count("WATCHDOG=1") >= before + 4, what="signs of life")


STUCK_ON_A_REQUEST = """
import time
from alarmdigest.runtime import service_thread
from alarmdigest.pipeline.worker import Worker
service_thread.STUCK_AFTER_S = 2
Worker._merge = lambda self, batch: time.sleep(1000)
"""


def test_the_watchdog_is_no_longer_fed_when_a_thread_is_stuck(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "n"))
    with (
        NatsServer() as server,
        ServiceProcess(
            server.url,
            environment=environment(systemd, WATCHDOG_USEC="400000"),
            program=patched(STUCK_ON_A_REQUEST),
        ) as service,
        Bus(server.url) as bus,
    ):
        eventually(lambda: systemd.count("WATCHDOG=1") >= 5, what="signs of life")
        bus.publish_all([request("ada")])
        eventually(
            lambda: any("is stuck" in line for line in systemd.lines if "STATUS=" in line),
            what="the reason",
        )
        fed = systemd.count("WATCHDOG=1")
        # Another status shows that the main thread still looks; the watchdog stays unfed.
        server.kill()
        eventually(
            lambda: any("not subscribed" in line for line in systemd.lines), what="another status"
        )
        assert systemd.count("WATCHDOG=1") == fed
        service.process.send_signal(signal.SIGUSR1)
        service.wait_for_log(r'File "<string>", line 6, in <lambda>')
        assert service.process.poll() is None
    systemd.close()


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed(tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "n"))
    other = environment(systemd, WATCHDOG_USEC="100000", WATCHDOG_PID="1")
    with NatsServer() as server, ServiceProcess(server.url, environment=other):
        systemd.wait_for("STATUS=ready")
        server.kill()
        eventually(lambda: systemd.lines[-1] != "STATUS=ready", what="another look")
        assert "WATCHDOG=1" not in systemd.lines
    systemd.close()


def test_it_works_on_when_systemd_does_not_listen() -> None:
    deaf = {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "1000000"}
    with NatsServer() as server, ServiceProcess(server.url, environment=deaf) as service:
        service.wait_for_log("cannot tell systemd")
        assert service.http("/readyz") == (200, "ok\n")
        assert service.stop() == 0


def test_what_no_text_can_hold_ends_nobody(systemd: Systemd) -> None:
    """The reasons may name a folder, and a folder may be named by any bytes."""
    Supervisor({"NOTIFY_SOCKET": systemd.address})._tell("STATUS=no room in \udcff")
    systemd.wait_for("STATUS=no room in ?")
