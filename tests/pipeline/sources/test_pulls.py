"""Asking a stream for messages: pulls that are lost, that are too small, and that must wait."""

from __future__ import annotations

import re
from pathlib import Path

from support.bus import Bus
from support.faults import ChangingServer, event, gated, numbers, pairs, patched
from support.nats_server import NatsServer
from support.raw import frames_of, publish_raw
from support.service import ServiceProcess
from support.streams import ALARMS, QUICK, last_of, store_all, stream_service, wait_until_read
from support.wait import eventually


def test_pulls_that_are_lost_are_noticed_by_their_missing_heartbeats(tmp_path: Path) -> None:
    """As when a stream is deleted under traffic, and the server forgets those who wait for it."""
    gate = tmp_path / "pulls arrive"
    lose = f"""
import pathlib
from alarmdigest.pipeline.sources.pulls import Pulls
pull = Pulls._pull
def lose(self):
    connection = self._connection
    if not pathlib.Path({str(gate)!r}).exists():
        self._connection = Lost()
    pull(self)
    self._connection = connection
class Lost:
    def send(self, data):
        pass
Pulls._pull = lose
"""
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="stream", program=patched(lose)) as service,
        Bus(server.url) as bus,
    ):
        store_all(bus, pairs(range(3)))
        gate.touch()
        service.wait_for_log("no heartbeat of the consumer")
        eventually(lambda: {0, 1, 2} <= set(numbers(bus.digests)), what="the digests")


TELLS_ITS_BOUND = """
import logging
from alarmdigest.pipeline.sources.pulls import Pulls
status = Pulls.status
def tell(self, headers):
    status(self, headers)
    logging.getLogger("test").info("a pull may have %d bytes", self._bytes)
Pulls.status = tell
"""


def test_a_message_larger_than_a_whole_pull_is_read_too() -> None:
    """The server took it when its limit was higher; all behind it would wait for ever."""
    large = "max_payload: 32MB\nmax_pending: 128MB"
    with (
        ChangingServer(extra=large) as server,
        ServiceProcess(
            server.url, mode="stream", program=patched(TELLS_ITS_BOUND), options=QUICK
        ) as service,
        Bus(server.url) as bus,
    ):
        assert service.stop() == 0
        subject, body = event("u", "0")
        filling = b"x" * (20 * 1024 * 1024)
        store_all(bus, [(subject, body[:-1] + b',"Extra":"' + filling + b'"}'), *pairs([1])])
        server.stop()
        server.change('max_payload: 1MB\njetstream { store_dir: "." }')
        server.start()
        eventually(lambda: bus.client.is_connected, what="the bus to be back")
        bus.flush()
        service.start()
        wait_until_read(service, 3)
        eventually(lambda: 1 in numbers(bus.digests), what="the digest behind it")
        # The bound is raised once for all pulls that waited, from 8 MiB: they must not ask together
        # for more than the server lets anybody owe.
        bounds = re.findall(r"a pull may have (\d+) bytes", service.log)
        assert max(map(int, bounds)) == 32 * 1024 * 1024


def test_workers_that_lag_are_not_fed_beyond_a_bound(tmp_path: Path) -> None:
    """The rest waits in the stream: nothing is dropped, and memory stays bounded."""
    gate, count = tmp_path / "open", 60_000
    # Far less than what the stream holds, and pulls that ask for less still.
    bounds = """
import alarmdigest.pipeline.sources.pulls as feeds, alarmdigest.pipeline.listener as listener
listener.PAUSE_AT_BYTES = 500_000
feeds.PULL_MESSAGES, feeds.PULL_BYTES, feeds.ALL_PULLS_BYTES = 500, 250_000, 500_000
"""
    with (
        NatsServer(jetstream_extra="max_buffered_msgs: 100000") as server,
        stream_service(server.url) as maker,
        Bus(server.url) as bus,
    ):
        assert maker.stop() == 0
        publish_raw(server.url, frames_of(event(f"u{number}", "a") for number in range(count)))
        eventually(lambda: last_of(bus, ALARMS) == count, timeout=30, what="all of them stored")
        late = ServiceProcess(server.url, mode="stream", program=gated(gate, bounds))
        with late as service:
            backlog: list[float] = []

            def settled() -> bool:
                backlog.append(service.metric("alarmdigest_backlog_bytes"))
                return backlog[-1] > 500_000 and backlog[-10:] == [backlog[-1]] * 10

            eventually(settled, interval=0.1, timeout=20, what="no more to be read")
            # What was on its way when it paused may still come.
            assert backlog[-1] < 500_000 + 2 * 500_000
            gate.touch()
            wait_until_read(service, count)
            eventually(lambda: service.metric("alarmdigest_alarms") == count, what="all merged")
