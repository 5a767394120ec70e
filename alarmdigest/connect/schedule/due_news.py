"""Thread *news*: hears from the service who becomes due, on a connection of its own."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable
from typing import NamedTuple

import orjson

from alarmdigest._ext import frames, timestamps
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.receive_buffer import ReceiveBuffer
from alarmdigest.nats.reconnect import Reconnector
from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.runtime.service_thread import TICK_S, ServiceThread
from alarmdigest.wire.messages import MAX_ID_BYTES

log = logging.getLogger(__name__)

SID = 1
MAX_WAITING = 200_000
_WATCH = re.compile(rb"\r\nAlarmdigest-Watch: *([0-9a-f]{1,64}) (\d{1,18})\r\n")


class News(NamedTuple):
    """A user became due, or critical. ``watch`` and ``number`` show whether news was missed."""

    watch: str
    number: int
    user: str
    since_ns: int
    critical: bool


class DueNews(ServiceThread):
    """Puts what it hears into ``queue``. ``gaps`` grows each time that something may have been
    missed: with each new connection, once it is subscribed, and when the queue was full."""

    def __init__(
        self,
        reconnector: Reconnector,
        subject: str,
        on_failure: Callable[[threading.Thread, BaseException], None],
    ) -> None:
        super().__init__("news", on_failure)
        self.reconnector = reconnector
        self._subject = subject
        self.queue: queue.Queue[News] = queue.Queue(MAX_WAITING)
        self.gaps = 0
        self.unreadable = 0
        #: What keeps us from hearing anything; empty for nothing.
        self.deaf = "there is no connection to NATS"
        self._stopping = threading.Event()
        self._trouble = LimitedLog(log, logging.WARNING)

    def stop(self) -> None:
        """Does not wait."""
        self._stopping.set()

    def work(self) -> None:
        while not self._stopping.is_set():
            connection = self.reconnector.connect_with_backoff(self._go_on)
            if connection is None:
                return
            try:
                self._listen(connection)
            except (NatsError, frames.ProtocolError) as error:
                self.deaf = str(error)
                if not self._stopping.is_set():
                    self._trouble("cannot hear who becomes due", reason=error)
            finally:
                connection.close()

    def _go_on(self) -> bool:
        self.sign_of_life()
        return not self._stopping.is_set()

    def _listen(self, connection: Connection) -> None:
        connection.send(f"SUB {self._subject} {SID}\r\n".encode())
        ping = connection.send_ping()
        buffer, subscribed = ReceiveBuffer(), False
        while self._go_on():
            buffer.receive(connection, TICK_S)
            found, end = frames.scan(buffer.data, 0, buffer.filled)
            buffer.drop_before(connection, end)
            for kind, _sid, _subject, _reply, headers, payload in found:
                if kind in (frames.MSG, frames.HMSG):
                    self._take(headers, payload)
                elif (refused := connection.handle(kind, payload)) is not None:
                    self.deaf = f"the server said: {refused}"
                    self._trouble("cannot hear who becomes due", reason=refused)
                elif kind == frames.INFO:
                    self.reconnector.learn(connection)
            if not subscribed and connection.pongs >= ping:
                subscribed, self.deaf = True, ""
                self.gaps += 1
            connection.keep_alive()

    def _take(self, headers: bytes, body: bytes) -> None:
        news = _news_in(headers, body)
        if news is None:
            self.unreadable += 1
            return
        try:
            self.queue.put_nowait(news)
        except queue.Full:
            self.gaps += 1


def _news_in(headers: bytes, body: bytes) -> News | None:
    """None for what is none: anybody who may can write on the subject."""
    watch = _WATCH.search(headers)
    if watch is None:
        return None
    try:
        fields = orjson.loads(body)
        user, status = fields["UserID"], fields["Status"]
        since_ns = timestamps.to_ns(fields["Since"])
        if not isinstance(user, str) or not 1 <= len(user.encode()) <= MAX_ID_BYTES:
            return None
    except (ValueError, KeyError, TypeError):
        return None
    return News(watch[1].decode(), int(watch[2]), user, since_ns, status == "CRITICAL")
