"""For the tests of JetStream: asking a server, filling its streams, and taking its memory away."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.jetstream import JetStream
from support.bus import Bus
from support.nats_server import NatsServer
from support.wait import eventually


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    connection = Connection(url, name="test", timeout=5.0)
    connection.connect()
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def asking(url: str, *, domain: str = "", timeout_s: float = 5.0) -> Iterator[JetStream]:
    """A JetStream on a connection of its own."""
    with connected(url) as connection:
        yield JetStream(connection, domain=domain, timeout_s=timeout_s)


def store(bus: Bus, subject: str, bodies: Iterable[bytes], ids: bool = False) -> None:
    """Publish one after the other, each once the one before it is stored."""

    async def work() -> None:
        stream = bus.client.jetstream()
        for body in bodies:
            headers = {"Nats-Msg-Id": body.decode()} if ids else None
            await stream.publish(subject, body, headers=headers)

    bus.run(work())


def frames_with_ids(subject: str, ids: Iterable[str], body: bytes) -> bytes:
    """HPUB frames for ``support.raw.publish_raw``."""
    frames = []
    for one in ids:
        headers = f"NATS/1.0\r\nNats-Msg-Id: {one}\r\n\r\n".encode()
        sizes = len(headers), len(headers) + len(body)
        frames.append(b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), *sizes, headers, body))
    return b"".join(frames)


def info_of(js: JetStream, stream: str) -> StreamInfo:
    info = js.stream_info(stream)
    assert info is not None, f"no stream {stream}"
    return info


def delete_streams(server: NatsServer, js: JetStream) -> None:
    """Delete all of them, and wait until their folders are gone.

    The server removes them after its answer: a stream of the same name that is made before has
    messages of the deleted one in it, one time in three (nats-server 2.15.1).
    """
    # Not those of a subject: a mirror has none.
    for name in js.request("STREAM.NAMES").get("streams") or ():
        js.request(f"STREAM.DELETE.{name}")

    def none_is_left() -> bool:
        try:
            return not list(server.store.glob("*/streams/*"))
        except FileNotFoundError:  # a folder went while we looked
            return False

    eventually(none_is_left, what="the end of all streams")


def forget(server: NatsServer, publish: Callable[[], None]) -> None:
    """What a power failure does: the disk is as it was before ``publish``, and the server runs.

    The sequence numbers of what was published meanwhile will be used again.
    """
    saved = server.store.with_name("saved")
    server.stop()
    shutil.copytree(server.store, saved)
    server.start()
    publish()
    server.stop()
    shutil.rmtree(server.store)
    saved.rename(server.store)
    server.start()
