"""A probe is answered at once, whoever else is connected and whatever the service is busy with."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.bus import Bus
from support.faults import pairs, patched
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

CROWD = 1000
# Kubernetes, unless told otherwise, gives up after one second. Some milliseconds is what it takes
# where nothing else uses the processors.
AT_ONCE_S = 1.0
FEW_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
"""


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> None:
    """Of this process, for the crowd."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture(scope="module")
def service(server: NatsServer) -> Iterator[ServiceProcess]:
    """With no more descriptors than a crowd would fill four times."""
    with ServiceProcess(server.url, program=patched(FEW_DESCRIPTORS)) as service:
        yield service


def place(service: ServiceProcess) -> tuple[str, int]:
    where = urlsplit(service.wait_for_log(r"on=(http://\S+)")[1])
    return where.hostname or "", where.port or 0


def probe(service: ServiceProcess) -> float:
    """Seconds until /healthz said ok."""
    started = time.monotonic()
    with socket.create_connection(place(service), timeout=30) as asking:
        asking.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = asking.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:80]
    return time.monotonic() - started


def idle(_connection: socket.socket) -> None:
    """Says nothing at all."""


def slow_writer(connection: socket.socket) -> None:
    connection.sendall(b"GET /healthz HT")


def slow_reader(connection: socket.socket) -> None:
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")


@contextmanager
def crowd(service: ServiceProcess, behave: Callable[[socket.socket], None]) -> Iterator[None]:
    """So many connections, each of which does this once and then a byte now and then."""
    gone = threading.Event()

    def drip() -> None:
        while not gone.wait(0.2):
            for connection in list(connections):
                try:
                    if behave is slow_reader:
                        connection.recv(1, socket.MSG_DONTWAIT)
                    elif behave is slow_writer:
                        connection.send(b"T", socket.MSG_DONTWAIT)
                except OSError:
                    pass  # it was shown the door

    connections: list[socket.socket] = []
    dripping = threading.Thread(target=drip)
    with ExitStack() as stack:
        stack.callback(dripping.join)
        stack.callback(gone.set)
        dripping.start()
        for _ in range(CROWD):
            connection = stack.enter_context(socket.socket())
            # Little of an answer shall fit between the two.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.settimeout(5)
            connection.connect(place(service))
            with suppress(OSError):
                behave(connection)
            connections.append(connection)
        # Whoever knocks behind them waits until all have been let in, and answered if they asked.
        eventually(lambda: probe(service) < AT_ONCE_S, timeout=30, what="a place beside the crowd")
        yield


@pytest.mark.parametrize("behave", [idle, slow_writer, slow_reader])
def test_a_crowd_keeps_no_probe_waiting(
    service: ServiceProcess, behave: Callable[[socket.socket], None]
) -> None:
    with crowd(service, behave):
        took = [probe(service) for _ in range(30)]
    print(f"{behave.__name__}: median {statistics.median(took):.4f} s, longest {max(took):.4f} s")
    assert max(took) < AT_ONCE_S


def test_a_crowd_takes_no_more_than_a_part_of_the_descriptors(service: ServiceProcess) -> None:
    folder = Path(f"/proc/{service.process.pid}/fd")
    with crowd(service, idle):
        assert len(list(folder.iterdir())) < 256 / 2
        assert service.http("/readyz") == (200, "ok\n")


def cpu_s(service: ServiceProcess) -> float:
    times = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def test_without_a_descriptor_to_spare_it_neither_spins_nor_falls_silent(
    server: NatsServer,
) -> None:
    """Nothing says so in advance: accept() fails."""
    with ServiceProcess(server.url) as service:
        pid = service.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        taken = max(int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir())
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken + 9, limits[1]))
        with crowd(service, idle):
            service.wait_for_log("ERROR .*http .*Too many open files")
            before, since = cpu_s(service), time.monotonic()
            took = [probe(service) for _ in range(30)]
            time_passed = time.monotonic() - since
        assert max(took) < AT_ONCE_S
        assert cpu_s(service) - before < 0.5 * time_passed + 0.5
        assert service.log.count("Too many open files") < 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert service.http("/readyz") == (200, "ok\n")


def test_a_probe_does_not_wait_while_the_pipeline_is_busy(
    service: ServiceProcess, server: NatsServer
) -> None:
    with Bus(server.url) as bus, crowd(service, slow_reader):
        bus.publish_all(pairs(range(40_000)))
        took = []
        while service.metric('alarmdigest_published_total{kind="digest"}') < 40_000:
            took += [probe(service) for _ in range(5)]
    print(f"busy: {len(took)} probes, longest {max(took, default=0):.4f} s")
    assert max(took, default=0) < 2 * AT_ONCE_S


DISK_THAT_HANGS = """
import time
from alarmdigest.observability.metrics import ServiceCollector
def hang(self):
    time.sleep(3600)
    yield
ServiceCollector._books = hang
"""


def test_a_page_that_hangs_holds_up_neither_probes_nor_the_end(server: NatsServer) -> None:
    """In a place of its own, as a disk may hang that a metric looks at."""
    with (
        ServiceProcess(server.url, program=patched(DISK_THAT_HANGS)) as service,
        socket.create_connection(place(service)) as scraper,
    ):
        scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert probe(service) < AT_ONCE_S
        assert service.http("/readyz") == (200, "ok\n")
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 5
