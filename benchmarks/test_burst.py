"""A burst of 500,000 events, from the first one published until the last one is merged.

Beside it, in the same run, the same burst into a nats-py subscription with an empty callback:
machines differ and are shared, so what counts is the ratio.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import ExitStack
from typing import Any

import nats
from load import events, go, publisher
from nats.aio.client import Client
from nats.aio.msg import Msg
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

USERS, ALARMS = 20_000, 25
EVENTS = USERS * ALARMS
ROUNDS = 3
SERVER = "max_pending: 512MB"  # so that nobody is cut off for being slow


def test_events_merged(benchmark: Any) -> None:
    frames = events(USERS, ALARMS)
    stack = ExitStack()

    def prepare() -> tuple[tuple[ServiceProcess, subprocess.Popen[str]], dict[str, Any]]:
        server = stack.enter_context(NatsServer(extra=SERVER))
        service = stack.enter_context(ServiceProcess(server.url, options=["--mode", "core"]))
        return (service, stack.enter_context(publisher(server.url, frames))), {}

    def burst(service: ServiceProcess, process: subprocess.Popen[str]) -> None:
        go(process)
        eventually(
            lambda: service.metric("alarmdigest_book_events_total") == EVENTS,
            timeout=120,
            interval=0.02,
            what="all events merged",
        )

    def check(service: ServiceProcess, _process: subprocess.Popen[str]) -> None:
        assert service.metric("alarmdigest_alarms") == EVENTS
        assert service.metric('alarmdigest_dropped_total{kind="event"}') == 0
        stack.close()

    with stack:
        benchmark.pedantic(burst, setup=prepare, teardown=check, rounds=ROUNDS)
    report(benchmark)


def test_nats_py_with_an_empty_callback(benchmark: Any) -> None:
    frames = events(USERS, ALARMS)
    stack = ExitStack()
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    received = 0
    complete = asyncio.Event()

    async def count(_message: Msg) -> None:
        nonlocal received
        received += 1
        if received % EVENTS == 0:
            complete.set()

    async def subscribe(url: str) -> Client:
        client = await nats.connect(url)
        await client.subscribe(
            "AlarmStatusChanged", cb=count, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await client.flush()
        return client

    def burst(process: subprocess.Popen[str]) -> None:
        complete.clear()
        go(process)
        loop.run_until_complete(asyncio.wait_for(complete.wait(), 120))

    def prepare() -> tuple[tuple[subprocess.Popen[str]], dict[str, Any]]:
        return (stack.enter_context(publisher(server.url, frames)),), {}

    with stack:
        server = stack.enter_context(NatsServer(extra=SERVER))
        client = loop.run_until_complete(subscribe(server.url))
        stack.callback(lambda: loop.run_until_complete(client.close()))
        benchmark.pedantic(burst, setup=prepare, rounds=ROUNDS)
    report(benchmark)


def report(benchmark: Any) -> None:
    """The rate of the median round, in the printed output and in the JSON."""
    rate = EVENTS / benchmark.stats.stats.median
    benchmark.extra_info["events_per_second"] = round(rate)
    print(f"\n{rate:,.0f} events/s (median of {ROUNDS})")
