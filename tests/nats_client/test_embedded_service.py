"""The service that brings its own server: started, found again, replaced when it dies, ended."""

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from nats.errors import Error
from nats.js.errors import APIError
from support.alone import Alone
from support.bus import Bus
from support.faults import assert_in_order_for_each_user, numbers, pairs, publish_surely
from support.nats_server import HOST, NatsServer, free_port
from support.service import send_until_it_ends
from support.small_disk import MIB, MountedDisk
from support.streams import store_all
from support.wait import eventually


def test_it_starts_a_server_says_so_and_stops_it_with_itself() -> None:
    with Alone() as service, Bus(service.url) as bus:
        service.wait_for_log(f"started an embedded one at {service.url} ")
        bus.publish_all(pairs([1]))
        assert numbers(bus.wait_for_digests(1)) == [1]
        assert service.stop() == 0
        assert " WARNING " not in service.log
        assert service.server_is_gone()


OLD = """#!/bin/sh
[ "$1" = --version ] && exec echo nats-server: v2.10.29
echo 'server.conf:19:3: unknown field "max_buffered_msgs"' >&2
exit 1
"""


def test_another_server_on_the_path_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "nats-server").write_text(OLD)
    (tmp_path / "nats-server").chmod(0o755)
    path = f"import os; os.environ['PATH'] = {str(tmp_path)!r} + ':' + os.environ['PATH']"
    with Alone(code=path) as service, Bus(service.url) as bus:
        bus.publish_all(pairs([1]))
        assert numbers(bus.wait_for_digests(1)) == [1]
        assert re.search(r"started an embedded one .* version=\d+\.\d+\.\d+\n", service.log)
        assert service.stop() == 0


def test_a_server_that_is_there_is_used_and_left_alone() -> None:
    with NatsServer() as server:
        with Alone(server.port) as service:
            service.wait_for_log(f"using the one found at {server.url} name={server.name}")
            assert service.stop() == 0
        assert server.alive()


def test_after_its_own_kill_9_it_finds_its_server_again() -> None:
    with Alone() as service:
        pid = service.server_pid()
        with Bus(service.url) as bus:
            service.kill()
            service.start()
            service.wait_for_log("going on with our own embedded one")
            assert service.server_pid() == pid
            bus.publish_all(pairs([1]))
            bus.wait_for_digests(1)
        assert service.stop() == 0
        assert service.server_is_gone()


def test_a_dead_server_is_replaced_three_times_then_it_gives_up_with_exit_code_3() -> None:
    with Alone() as service:
        for restart in (1, 2, 3):
            before = service.server_pid()
            os.kill(before, signal.SIGKILL)
            service.wait_for_log(f"ERROR .*the embedded server died: restart {restart} of 3")
            eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
            assert service.server_pid() != before
        with Bus(service.url) as bus:
            bus.publish_all(pairs([1]))
            bus.wait_for_digests(1)
        os.kill(service.server_pid(), signal.SIGKILL)
        assert service.wait() == 3
        assert "died again after 3 restarts" in service.log


HOPELESS = """
from alarmdigest.nats.embedded.discovery import EmbeddedServerError
from alarmdigest.nats.embedded.server import EmbeddedServer
def restart(self, timeout=20.0):
    self._forget()
    raise EmbeddedServerError("no room on the disk")
EmbeddedServer.restart = restart
"""


def test_a_replacement_that_fails_is_tried_again_before_it_gives_up() -> None:
    with Alone(code=HOPELESS) as service:
        os.kill(service.server_pid(), signal.SIGKILL)
        assert service.wait() == 3
        assert service.log.count("did not come back: no room on the disk") == 3
        assert "died again after 3 restarts" in service.log


def test_ctrl_c_reaches_the_service_but_ends_its_server_only_after_the_drain() -> None:
    count = 10_000
    # A process group of its own, as a shell gives to what runs in the foreground.
    with Alone(code="import os; os.setpgid(0, 0)") as service, Bus(service.url) as bus:
        publish_surely(bus, pairs(range(count)))
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.wait() == 0
        digests = bus.wait_for_digests(count)
        assert sorted(numbers(digests)) == list(range(count))
        assert_in_order_for_each_user(digests)
        assert "connection lost" not in service.log
        assert service.server_is_gone()


@pytest.mark.slow
def test_after_a_full_disk_its_server_takes_messages_again(tmp_path: Path) -> None:
    if not MountedDisk.possible():
        pytest.skip("only root can mount a small disk")
    # Two GiB, so that the server finds room for all streams.
    disk = MountedDisk(tmp_path, 2048 * MIB)
    service = Alone(mode="stream", options=disk.options)
    service.data_dir = Path(disk.options[1])
    with disk.under(service), service, Bus(service.url) as bus:

        def stored(number: int) -> bool:
            try:
                store_all(bus, pairs([number]))
            except (Error, APIError):
                return False
            return True

        assert stored(1)
        disk.fill()
        eventually(lambda: not stored(2), interval=0.05, timeout=60, what="a full disk")
        disk.make_room()
        eventually(lambda: stored(3), interval=0.1, timeout=60, what="messages to be taken again")
        eventually(lambda: 3 in numbers(bus.digests), timeout=20, what="the digest")
        eventually(lambda: service.http("/readyz")[0] == 200, timeout=20, what="ready")


STUCK_WORKER = """
import time
from alarmdigest.pipeline.worker import Worker
Worker._merge = lambda self, batch: time.sleep(60)
"""


def test_a_second_signal_takes_the_server_along() -> None:
    with Alone(code=STUCK_WORKER) as service, Bus(service.url) as bus:
        publish_surely(bus, pairs([1]))
        service.terminate()
        service.wait_for_log("draining")
        send_until_it_ends(service, signal.SIGTERM)
        assert service.wait() == 5
        eventually(service.server_is_gone, what="the end of the server")


@contextmanager
def stranger(says: bytes) -> Iterator[int]:
    """Someone else on a port, who says this to everyone."""
    kept: list[socket.socket] = []

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                kept.append(connection)
                connection.sendall(says)

    with socket.create_server((HOST, free_port())) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


@pytest.mark.parametrize("says", [b"220 mail.example.org ESMTP\r\n", b""], ids=["mail", "silent"])
def test_a_stranger_on_the_port_is_exit_code_3_and_named(says: bytes) -> None:
    with stranger(says) as port:
        service = Alone(port)
        service.start(ready=False)
        assert service.wait() == 3
        last = service.log.splitlines()[-1]
        assert f"port {port} is taken by something that is not a NATS server" in last
        assert "Traceback" not in service.log
