"""A burst of 500,000 events, from the first one published until the last one is merged.

Side by side in one run, since machines differ and are shared, and only ratios count: the service
with plain subscriptions; with a stream, live and catching up; what the capture alone costs the
server; and a nats-py subscription with an empty callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import nats
import pytest
from load import events, go, publisher
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.bus import Bus
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

USERS, ALARMS = 20_000, 25
EVENTS = USERS * ALARMS
ROUNDS = 3
# So that nobody is cut off for being slow, and that the stream drops nothing of a burst.
EXTRA = "max_pending: 512MB"
JETSTREAM_EXTRA = "max_buffered_msgs: 1000000\nmax_buffered_size: 512MB"

Burst = Callable[[], None]


@pytest.fixture(scope="module")
def frames() -> bytes:
    return events(USERS, ALARMS)


def measure(benchmark: Any, prepare: Callable[[ExitStack], Burst]) -> None:
    """Time the bursts that ``prepare`` makes ready; what it opens is closed after each."""
    stack = ExitStack()

    def setup() -> tuple[tuple[Burst], dict[str, Any]]:
        return (prepare(stack),), {}

    with stack:
        benchmark.pedantic(
            lambda burst: burst(), setup=setup, teardown=lambda _: stack.close(), rounds=ROUNDS
        )
    rate = EVENTS / benchmark.stats.stats.median
    benchmark.extra_info["events_per_second"] = round(rate)
    print(f"\n{rate:,.0f} events/s (median of {ROUNDS})")


def all_merged(service: ServiceProcess) -> None:
    eventually(
        lambda: service.metric("alarmdigest_book_events_total") == EVENTS,
        timeout=120,
        interval=0.02,
        what="all events merged",
    )
    assert service.metric("alarmdigest_alarms") == EVENTS
    assert service.metric('alarmdigest_dropped_total{kind="event"}') == 0


@pytest.mark.parametrize("mode", ["core", "stream"])
def test_live(benchmark: Any, mode: str, frames: bytes) -> None:
    """Published, captured (stream), read, decoded, merged and checkpointed at the same time."""

    def prepare(stack: ExitStack) -> Burst:
        server = stack.enter_context(NatsServer(extra=EXTRA, jetstream_extra=JETSTREAM_EXTRA))
        service = stack.enter_context(ServiceProcess(server.url, mode=mode))
        process = stack.enter_context(publisher(server.url, frames))

        def burst() -> None:
            go(process)
            all_merged(service)

        return burst

    measure(benchmark, prepare)


def test_catching_up(benchmark: Any, frames: bytes) -> None:
    """The stream holds everything when the service starts; its start is part of the time."""

    def prepare(stack: ExitStack) -> Burst:
        server = stack.enter_context(NatsServer(extra=EXTRA, jetstream_extra=JETSTREAM_EXTRA))
        service = ServiceProcess(server.url, mode="stream")
        with service:
            service.stop()
        process = stack.enter_context(publisher(server.url, frames))
        go(process)
        captured(stack.enter_context(Bus(server.url)), EVENTS)
        later = ServiceProcess(server.url, mode="stream")

        def burst() -> None:
            stack.enter_context(later)
            all_merged(later)

        return burst

    measure(benchmark, prepare)


def test_capture_alone(benchmark: Any, frames: bytes) -> None:
    """Published and captured by the stream; nobody reads it."""

    def prepare(stack: ExitStack) -> Burst:
        server = stack.enter_context(NatsServer(extra=EXTRA, jetstream_extra=JETSTREAM_EXTRA))
        with ServiceProcess(server.url, mode="stream") as service:  # it makes the stream
            service.stop()
        process = stack.enter_context(publisher(server.url, frames))
        bus = stack.enter_context(Bus(server.url))

        def burst() -> None:
            go(process)
            captured(bus, EVENTS)

        return burst

    measure(benchmark, prepare)


def captured(bus: Bus, count: int) -> None:
    jetstream = bus.client.jetstream()
    eventually(
        lambda: bus.run(jetstream.stream_info("ALARMS")).state.messages == count,
        timeout=120,
        interval=0.02,
        what="all events captured",
    )


def test_nats_py_with_an_empty_callback(benchmark: Any, frames: bytes) -> None:
    def prepare(stack: ExitStack) -> Burst:
        server = stack.enter_context(NatsServer(extra=EXTRA, jetstream_extra=JETSTREAM_EXTRA))
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        received = 0
        complete = asyncio.Event()

        async def count(_message: Msg) -> None:
            nonlocal received
            received += 1
            if received == EVENTS:
                complete.set()

        async def subscribe() -> Client:
            client = await nats.connect(server.url)
            await client.subscribe(
                "AlarmStatusChanged", cb=count, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
            await client.flush()
            return client

        client = loop.run_until_complete(subscribe())
        stack.callback(lambda: loop.run_until_complete(client.close()))
        process = stack.enter_context(publisher(server.url, frames))

        def burst() -> None:
            go(process)
            loop.run_until_complete(asyncio.wait_for(complete.wait(), 120))

        return burst

    measure(benchmark, prepare)
