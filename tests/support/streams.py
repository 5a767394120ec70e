"""The streams as seen by those who own the server: filled, read, changed and taken away."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
from nats.errors import Error
from nats.js.api import StreamConfig, StreamInfo
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from support.bus import Bus
from support.faults import Message, pairs
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

ALARMS, DIGESTS, REJECTED = "ALARMS", "ALARM_DIGESTS", "ALARM_REJECTED"
INPUTS = [
    *("AlarmStatusChanged", "AlarmStatusChanged.>"),
    *("SendAlarmDigest", "SendAlarmDigest.>"),
    *("ForgetUser", "ForgetUser.>"),
]
QUICK = ("--workers", "3", "--checkpoint-interval", "100ms")


def metric_of(change: str) -> str:
    """The counter of one of ``monitor.stream_changes.CHANGES``."""
    return f'alarmdigest_stream_changes_total{{change="{change}"}}'


MADE_ANEW, ROLLED_BACK = metric_of("input_recreated"), metric_of("input_truncated")


def stream_service(server: str, *options: str, mode: str = "stream") -> ServiceProcess:
    return ServiceProcess(server, mode=mode, options=[*QUICK, *options])


def js(bus: Bus) -> JetStreamContext:
    return bus.client.jetstream(timeout=10)


def store_all(bus: Bus, messages: Iterable[Message]) -> None:
    """Publish, each message once the stream has confirmed the one before it."""

    async def work() -> None:
        for subject, body in messages:
            await js(bus).publish(subject, body)

    bus.run(work())


def info(bus: Bus, stream: str) -> StreamInfo | None:
    async def work() -> StreamInfo | None:
        try:
            return await js(bus).stream_info(stream)
        except NotFoundError:
            return None

    return bus.run(work())


def last_of(bus: Bus, stream: str) -> int:
    """The last sequence of the stream; 0 where there is none."""
    found = info(bus, stream)
    return found.state.last_seq if found is not None else 0


def add(bus: Bus, name: str, subjects: list[str], **limits: Any) -> None:
    bus.run(js(bus).add_stream(StreamConfig(name=name, subjects=subjects, **limits)))


def update(bus: Bus, name: str, **limits: Any) -> None:
    """Change some of a stream's limits."""
    found = info(bus, name)
    assert found is not None
    bus.run(js(bus).update_stream(found.config.evolve(**limits)))


def delete(bus: Bus, name: str) -> None:
    bus.run(js(bus).delete_stream(name))


def bodies(bus: Bus, stream: str) -> list[bytes]:
    """All that the stream holds now, in order."""

    async def work() -> list[bytes]:
        found = await js(bus).stream_info(stream)
        got = []
        for sequence in range(max(1, found.state.first_seq), found.state.last_seq + 1):
            with suppress(NotFoundError):
                got.append((await js(bus).get_msg(stream, sequence)).data or b"")
        return got

    return bus.run(work())


def numbers_in(bus: Bus, stream: str = DIGESTS) -> list[int]:
    """The numbers that ``pairs`` gave the alarms of the digests that the stream holds."""
    return [
        int(alarm["AlarmID"].rpartition(".")[2])
        for body in bodies(bus, stream)
        for alarm in orjson.loads(body)["ActiveAlarms"]
    ]


def numbers_asked_for(bus: Bus) -> list[int]:
    """Those of the alarms that stand in ALARMS."""
    return [
        int(message["AlarmID"].rpartition(".")[2])
        for message in map(orjson.loads, bodies(bus, ALARMS))
        if "AlarmID" in message
    ]


def wait_until_read(service: ServiceProcess, position: int) -> None:
    eventually(
        lambda: service.metric("alarmdigest_stream_position") == position,
        what=f"the service to have read up to {position}",
    )


class Saved:
    """A copy of the server's directory, to be put back later. The server restarts for both."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._copy: Path = server.store.with_name("saved")
        server.stop()
        shutil.copytree(server.store, self._copy)
        server.start()

    def put_back(self) -> None:
        self._server.stop()
        shutil.rmtree(self._server.store)
        self._copy.rename(self._server.store)
        self._server.start()


class SavedAlarms(Saved):
    """Of the server's directory the stream ALARMS alone."""

    def put_back(self) -> None:
        self._server.stop()
        [now] = self._server.store.glob(f"*/streams/{ALARMS}")
        [then] = self._copy.glob(f"*/streams/{ALARMS}")
        shutil.rmtree(now)
        shutil.copytree(then, now)
        self._server.start()


class Traffic(threading.Thread):
    """Stores one pair after the other, as fast as they are confirmed, whatever happens meanwhile.

    A message that was not confirmed is published again. ``with Traffic(bus) as traffic: …``
    """

    def __init__(self, bus: Bus, first: int = 0) -> None:
        super().__init__(daemon=True)
        self._bus = bus
        self._first = first
        self._ending = threading.Event()
        self.stored = 0

    def run(self) -> None:
        for number in range(self._first, 10**9):
            for subject, body in pairs([number]):
                while not self._stored(subject, body):
                    if self._ending.is_set():
                        return
            self.stored += 1
            if self._ending.is_set():
                return

    def _stored(self, subject: str, body: bytes) -> bool:
        try:
            self._bus.run(js(self._bus).publish(subject, body, timeout=1.0))
        except (Error, TimeoutError, asyncio.TimeoutError):
            return False
        return True

    def wait_for(self, more: int) -> None:
        """Until so many more pairs are stored."""
        goal = self.stored + more
        eventually(lambda: self.stored >= goal, timeout=30, what=f"{more} pairs more")

    def __enter__(self) -> Traffic:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self.join(30)
