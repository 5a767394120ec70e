"""A TCP proxy between a client and its server that cuts, stalls, delays and splits on demand.

It is one thread with an event loop of its own, and every method hands its work to that thread and
waits for it: when ``cut()`` returns, the connections are cut.
"""

import asyncio
import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

HOST = "127.0.0.1"
CHUNK = 65536


class _Link:
    """One proxied connection."""

    def __init__(self, client: asyncio.StreamWriter, cut_after: int | None) -> None:
        self.writers = [client]
        self.cut_after = cut_after
        """How many more bytes the client gets before it is cut; None for no limit."""
        self.dead = False
        self.stranded = False
        self.released = asyncio.Event()
        self.released.set()

    def strand(self) -> None:
        self.stranded = True
        self.released.clear()
        self.writers[0].transport.abort()

    def cut(self) -> None:
        """Reset both sides: with a linger time of 0, closing sends RST and not FIN."""
        self.dead = True
        for writer in self.writers:
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            writer.transport.abort()


class Proxy:
    """Forwards connections to its ``port`` on the loopback to ``server_port`` there.

    While the server is down a connection is accepted and reset at once; ``refuse()`` makes it
    "connection refused". The port stays the same throughout.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.connections = 0
        """How many have been accepted since the start."""
        self.rewrite = (b"", b"")
        """What the server says, and what the client hears instead; within one chunk."""
        self._server_port = server_port
        self._links: set[_Link] = set()
        self._cut_after: int | None = None
        self._delay = 0.0
        self._max_chunk: int | None = None
        self._pause = 0.0
        self._flowing = {way: asyncio.Event() for way in ("to server", "to client")}
        for flowing in self._flowing.values():
            flowing.set()
        self._holder = socket.socket()
        self._listening: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def cut(self) -> None:
        """Reset all connections now, on both sides; what the proxy still holds is lost."""
        self._do(self._cut_all())

    def strand(self) -> None:
        """Cut off the clients of all connections; what those have sent and the server has not yet
        had is on its way until ``release``."""
        self._do(self._strand_all())

    def release(self) -> None:
        """Let the server have it; returns once it has read all of it."""
        self._do(self._release_all())

    def cut_after(self, n_bytes: int) -> None:
        """Let each connection, present or new, have ``n_bytes`` more towards the client; reset the
        first that has had them, once the client's side has them all. Then all flow freely again.
        """
        self._do(self._set_cut_after(n_bytes))

    def stall(self, *ways: str) -> None:
        """Forward nothing "to server", "to client", or without a word in neither direction; keep
        all connections open."""
        self._do(self._set_flowing(False, ways or tuple(self._flowing)))

    def resume(self) -> None:
        """Forward again, beginning with what was held back."""
        self._do(self._set_flowing(True, tuple(self._flowing)))

    def delay(self, seconds: float) -> None:
        """Hold each chunk of up to 64 KiB for so long, one after the other; 0 ends it."""
        self._delay = seconds

    def split(self, max_chunk: int | None, pause: float = 0.001) -> None:
        """Forward in pieces of at most ``max_chunk`` bytes, ``pause`` seconds apart so that the
        receiver reads them one by one; None ends it."""
        self._max_chunk, self._pause = max_chunk, pause

    def refuse(self) -> None:
        """Let new connections be refused, by the kernel; present ones go on."""
        self._do(self._stop_listening())

    def redirect(self, server_port: int) -> None:
        """Take new connections to another server; present ones stay where they are."""
        self._server_port = server_port

    def accept(self) -> None:
        """Take new connections again."""
        self._do(self._listen())

    def __enter__(self) -> "Proxy":
        # Bound for as long as we live, but never listening: it keeps the port ours meanwhile.
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind((HOST, 0))
        self.port = self._holder.getsockname()[1]
        self._thread.start()
        self.accept()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._holder.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    # -- what follows runs in the proxy's thread

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = await asyncio.start_server(
                self._serve, HOST, self.port, limit=CHUNK, reuse_address=True
            )

    async def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()  # no wait_closed: from 3.12 on it waits for the connections
            self._listening = None

    async def _cut_all(self) -> None:
        while self._links:
            self._links.pop().cut()
        await asyncio.sleep(0)  # an aborted transport closes its socket in the next round

    async def _strand_all(self) -> None:
        for link in self._links:
            link.strand()

    async def _release_all(self) -> None:
        stranded = [link for link in self._links if link.stranded]
        for link in stranded:
            link.released.set()
        while not self._links.isdisjoint(stranded):  # the server closes them once it has read all
            await asyncio.sleep(0.01)

    async def _set_cut_after(self, n_bytes: int | None) -> None:
        self._cut_after = n_bytes
        for link in self._links:
            link.cut_after = n_bytes

    async def _set_flowing(self, flowing: bool, ways: Sequence[str]) -> None:
        for way in ways:
            if flowing:
                self._flowing[way].set()
            else:
                self._flowing[way].clear()

    async def _close(self) -> None:
        await self._stop_listening()
        await self._cut_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer, self._cut_after)
        self._links.add(link)
        self.connections += 1
        try:
            server = await asyncio.open_connection(HOST, self._server_port, limit=CHUNK)
            link.writers.append(server[1])
            if not link.dead:
                await asyncio.gather(
                    self._forward(reader, server[1], link, "to server"),
                    self._forward(server[0], writer, link, "to client"),
                )
                for each in link.writers:
                    each.close()
                return
            link.cut()
        except OSError:  # no server there, or one side was reset: so is the other
            link.cut()
        finally:
            self._links.discard(link)

    async def _forward(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        link: _Link,
        way: str,
    ) -> None:
        """Forward to EOF, and pass that on."""
        to_client = way == "to client"
        target.transport.set_write_buffer_limits(0)  # drain() waits until the kernel has it all
        while data := await source.read(CHUNK):
            if to_client and link.stranded:
                continue  # nobody is there
            if to_client and self.rewrite[0]:
                data = data.replace(*self.rewrite)
            if self._delay:
                await asyncio.sleep(self._delay)
            step = self._max_chunk or len(data)
            for at in range(0, len(data), step):
                await self._flowing[way].wait()
                if not to_client:
                    await link.released.wait()
                piece = data[at : at + step]
                if to_client and link.cut_after is not None:
                    piece = piece[: link.cut_after]
                    link.cut_after -= len(piece)
                target.write(piece)
                await target.drain()
                if to_client and link.cut_after == 0:
                    await _received(target)
                    await self._set_cut_after(None)
                    raise ConnectionResetError
                if self._max_chunk:
                    await asyncio.sleep(self._pause)
        if target.can_write_eof() and not (to_client and link.stranded):
            target.write_eof()


async def _received(writer: asyncio.StreamWriter) -> None:
    """Wait, at most a second, until the peer's kernel has what was written: RST throws the rest
    away."""
    sock = writer.get_extra_info("socket")
    for _ in range(1000):
        try:
            unsent = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # not for sockets on this system
            await asyncio.sleep(0.05)
            return
        if not any(unsent):
            return
        await asyncio.sleep(0.001)
