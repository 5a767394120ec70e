"""Two schedulers, the service and the server are killed for a while, under users who become due."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from random import Random

import pytest
from support.bridge import Streams
from support.nats_server import NatsServer
from support.scheduler import SchedulerProcess, digests, event, requests_by_user, schedule
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.nats.errors import NatsError

pytestmark = pytest.mark.deliver

SECONDS = 20.0
USERS = 40


class Agents(threading.Thread):
    """Publish new alarms, each until it is confirmed."""

    def __init__(self, server: NatsServer) -> None:
        super().__init__()
        self._server = server
        self.stopping = threading.Event()
        self.alarms: list[tuple[str, str]] = []

    def run(self) -> None:
        random = Random(7)
        while not self.stopping.wait(0.02):
            user, alarm = f"user-{random.randrange(USERS)}", f"alarm-{len(self.alarms)}"
            body = event(user, alarm, random.choice(["WARNING", "CRITICAL"]))
            while not self._publish(body):
                time.sleep(0.05)
            self.alarms.append((user, alarm))

    def _publish(self, body: bytes) -> bool:
        """Over a connection of its own: the server may be another one each time."""
        with suppress(NatsError, AssertionError):
            streams = Streams(self._server, create=False)
            try:
                streams.publish("AlarmStatusChanged", body)
                return True
            finally:
                streams.close()
        return False


def test_each_alarm_is_told_once_whoever_dies(server: NatsServer, streams: Streams) -> None:
    schedule(server.url, "set", "--default", "--within", "400ms", "--critical-within", "100ms")
    streams.close()
    random = Random(5)
    service = ServiceProcess(server.url, mode="stream", options=["--checkpoint-interval", "200ms"])
    schedulers = [SchedulerProcess(server.url) for _ in range(2)]
    agents = Agents(server)
    kills: Counter[str] = Counter()
    try:
        service.start()
        for one in schedulers:
            one.start()
        agents.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(random.uniform(0.2, 1.5))  # when it happens is up to chance
            what = random.choice(["first", "second", "both", "service", "server"])
            kills[what] += 1
            if what == "server":
                server.kill()
                server.start()
                continue
            which: dict[str, Sequence[ServiceProcess]] = {
                "first": schedulers[:1],
                "second": schedulers[1:],
                "both": schedulers,
                "service": [service],
            }
            for process in which[what]:
                if process.is_running:
                    process.kill()
                process.start(ready=False)
        agents.stopping.set()
        agents.join()
        for process in (service, *schedulers):
            if not process.is_running:
                process.start(ready=False)
        again = Streams(server, create=False)
        expected = Counter(agents.alarms)

        def told() -> Counter[tuple[str, str]]:
            return Counter((user, alarm) for user, alarms in digests(again) for alarm in alarms)

        eventually(lambda: len(told()) >= len(expected), timeout=60, what="all alarms", interval=1)
        assert told() == expected
        assert sum(kills.values()) >= 8
        assert len(agents.alarms) > 100
        # Nobody asks in vain but for what a death leaves in doubt.
        asked = sum(requests_by_user(again).values())
        assert asked < 2 * len(digests(again)) + 100
        again.close()
    finally:
        agents.stopping.set()
        for process in (service, *schedulers):
            process.end()
