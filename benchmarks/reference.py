"""What the service is compared with, each a process of its own: ``reference.py NAME URL …``.

Each prints ``ready``, then, when it has seen the number of messages that it was told, ``done`` and
the CPU seconds that it took in between.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nats
from nats.aio.msg import Msg

from alarmdigest._ext import frames
from alarmdigest._ext.router import Router
from alarmdigest.nats.connection import Connection
from alarmdigest.pipeline.listener import BUFFER_BYTES
from alarmdigest.pipeline.server_checks import stream_configs_of
from alarmdigest.pipeline.sources.pull_consumer import PullConsumerSource
from alarmdigest.settings import Settings

SUBJECT = "AlarmStatusChanged"


def report(work: Callable[[], None]) -> None:
    print("ready", flush=True)
    before = time.process_time()
    work()
    print("done", time.process_time() - before, flush=True)


def connected(url: str) -> Connection:
    connection = Connection(url, name="reference")
    connection.connect()
    return connection


class Skimmer:
    """Reads a connection with the service's compiled scanner and does nothing with messages."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.messages = 0
        self._buffer = bytearray(BUFFER_BYTES)
        self._filled = 0

    def read(self) -> list[tuple[int, bytes, bytes]]:
        """One read: ``(kind, headers, text)`` of each frame that is no plain message."""
        end = self._filled + self.connection.receive_into(self._buffer, self._filled, 1.0)
        count, others, position = frames.skim(self._buffer, 0, end)
        self.messages += count
        self._filled = end - position
        self._buffer[: self._filled] = self._buffer[position:end]
        for kind, *_, text in others:
            self.connection.handle(kind, text)
        return [(kind, headers, text) for kind, _sid, _to, _reply, headers, text in others]


def scanner(url: str, count: str) -> None:
    """A plain subscriber: frames found, and nothing else."""
    skimmer = Skimmer(connected(url))
    skimmer.connection.send(f"SUB {SUBJECT}  1\r\nPING\r\n".encode())
    while skimmer.connection.pongs == 0:
        skimmer.read()

    def work() -> None:
        while skimmer.messages < int(count):
            skimmer.read()

    report(work)


def natspy(url: str, count: str) -> None:
    """A nats-py subscriber with an empty callback."""
    loop = asyncio.new_event_loop()
    left, complete = int(count), asyncio.Event()

    async def callback(_message: Msg) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            complete.set()

    async def subscribe() -> None:
        client = await nats.connect(url)
        await client.subscribe(SUBJECT, cb=callback, pending_msgs_limit=-1, pending_bytes_limit=-1)
        await client.flush()

    async def wait() -> None:
        await complete.wait()

    loop.run_until_complete(subscribe())
    report(lambda: loop.run_until_complete(wait()))


def puller(url: str, count: str) -> None:
    """A pull consumer, asking as the service does: messages counted, and nothing else."""
    skimmer = Skimmer(connected(url))
    # Of the router only what the source looks at.
    router = cast(
        Router,
        SimpleNamespace(
            sequence=0,
            timestamp_ns=0,
            delivered=0,
            pending=0,
            take_answers=list,
            arrival_ns=0,
            stepped_back_ns=0,
            reread_seq=0,
            begin_reread=lambda *_args: None,
            take_gap=lambda: None,
            begin_deliveries=lambda *_args, **_named: None,
        ),
    )
    source = PullConsumerSource(
        stream_configs_of(Settings()).alarms, create=False, domain="", start="first", position=None
    )
    source.open(skimmer.connection, router, None)

    def work() -> None:
        while skimmer.messages < int(count):
            for kind, headers, _text in skimmer.read():
                if kind == frames.HMSG:
                    source.status(headers, router)
            cast(Any, router).delivered = skimmer.messages
            source.request_more(skimmer.connection, router, pause=False)

    report(work)


def responder(url: str, _count: str) -> None:
    """Answers requests on ``reference.request`` for ever."""
    connection = connected(url)
    connection.send(b"SUB reference.request  1\r\nPING\r\n")
    buffer, filled = bytearray(1 << 16), 0
    print("ready", flush=True)
    while True:
        end = filled + connection.receive_into(buffer, filled, 1.0)
        found, position = frames.scan(buffer, 0, end)
        filled = end - position
        buffer[:filled] = buffer[position:end]
        for kind, _sid, _to, reply, _headers, payload in found:
            if kind == frames.MSG:
                connection.send(b"PUB %b %d\r\n%b\r\n" % (reply, len(payload), payload))
            else:
                connection.handle(kind, payload)


def acked(url: str, count: str, file: str) -> None:
    """Publishes bodies (one per line) to a stream, pipelined, until all PubAcks are there."""
    skimmer = Skimmer(connected(url))
    inbox = f"_INBOX.{secrets.token_hex(8)}"
    skimmer.connection.send(f"SUB {inbox}  1\r\n".encode())
    bodies = Path(file).read_bytes().splitlines()
    assert len(bodies) == int(count)
    batches = []
    for start in range(0, len(bodies), 256):
        messages = []
        for number, body in enumerate(bodies[start : start + 256], start):
            headers = b"NATS/1.0\r\nNats-Msg-Id: %032x\r\n\r\n" % number
            messages.append(
                b"HPUB AlarmDigest %b %d %d\r\n%b%b\r\n"
                % (inbox.encode(), len(headers), len(headers) + len(body), headers, body)
            )
        batches.append((len(messages), b"".join(messages)))

    def work() -> None:
        sent = 0
        for size, batch in batches:
            while sent + size - skimmer.messages > 16_384:
                skimmer.read()
            skimmer.connection.send(batch)
            sent += size
        while skimmer.messages < sent:
            skimmer.read()

    print("loaded", flush=True)
    sys.stdin.readline()
    report(work)


if __name__ == "__main__":
    known = {f.__name__: f for f in (scanner, natspy, puller, responder, acked)}
    known[sys.argv[1]](*sys.argv[2:])
