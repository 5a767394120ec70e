"""The other side of NATS, played by an independent client: nats-py, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from support.wait import eventually

T = TypeVar("T")


@dataclass(frozen=True)
class Received:
    """One message: its subject, body and headers."""

    subject: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Bus:
    """Publishes, and keeps what arrives on AlarmDigest and AlarmRejected, in order.

    Reconnects by itself when the server comes back. ``with Bus(url) as bus: …``
    """

    def __init__(self, url: str, *, digests: str = "AlarmDigest", rejected: str = "AlarmRejected"):
        self._url = url
        self._subjects = digests, rejected
        self.digests: list[Received] = []
        self.rejected: list[Received] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.client: Client

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        """Run a coroutine of nats-py's in the loop, for what this class does not offer."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def publish(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.run(self.client.publish(subject, body, headers=headers))

    def ask(self, subject: str, body: bytes) -> bytes:
        """The answer of whoever answers first."""
        return self.run(self.client.request(subject, body, timeout=10)).data

    def publish_all(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish ``(subject, body)`` pairs in order, and wait until the server has them."""

        async def work() -> None:
            for subject, body in messages:
                await self.client.publish(subject, body)
            await self.client.flush(30)

        self.run(work())

    def flush(self) -> None:
        self.run(self.client.flush(30))

    def wait_for_digests(self, count: int, timeout: float = 20.0) -> list[Received]:
        """Wait until so many have arrived in all; all of them."""
        eventually(lambda: len(self.digests) >= count, timeout=timeout, what=f"{count} digests")
        return self.digests

    def wait_for_rejected(self, count: int, timeout: float = 20.0) -> list[Received]:
        eventually(lambda: len(self.rejected) >= count, timeout=timeout, what=f"{count} refusals")
        return self.rejected

    def __enter__(self) -> Bus:
        self._thread.start()
        self.run(self._open())
        return self

    async def _open(self) -> None:
        self.client = await nats.connect(
            self._url,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
            pending_size=256 * 1024 * 1024,
            error_cb=self._quiet,
        )
        for subject, kept in zip(self._subjects, (self.digests, self.rejected), strict=True):
            await self.client.subscribe(
                subject,
                cb=self._keeper(kept),
                pending_msgs_limit=-1,
                pending_bytes_limit=-1,
            )
        await self.client.flush()

    @staticmethod
    def _keeper(kept: list[Received]) -> Any:
        async def keep(message: Msg) -> None:
            kept.append(Received(message.subject, message.data, dict(message.headers or {})))

        return keep

    @staticmethod
    async def _quiet(error: Exception) -> None:
        """Lost connections are what the tests are about; nats-py would log each of them."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.run(self.client.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
