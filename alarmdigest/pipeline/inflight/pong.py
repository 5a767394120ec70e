"""Confirmation with plain NATS: a PONG tells that the server has taken all before the PING.

Every write ends with a PING. There is nothing to look up, and no message is refused by itself: a
connection keeps the order of what is written to it.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alarmdigest._ext import frames, outgoing
from alarmdigest.nats.connection import Connection
from alarmdigest.pipeline.batches import Outgoing, joined, requests_in
from alarmdigest.pipeline.inflight.blocked import PublishBlocked
from alarmdigest.pipeline.inflight.confirmer import Confirmer, ReadResult
from alarmdigest.pipeline.inflight.window import InFlightBatch


@dataclass(slots=True)
class _Write:
    """One batch, whose number is that of the write. ``ping`` is the PING after it."""

    records: bytes
    number: int
    sends: int = 0
    ping: int = 0
    digests: int = 0
    rejections: int = 0
    given_up: int = 0  # rejections that the server did not take, or that were not sent to it


class PongConfirmer(Confirmer):
    """Numbers batches, not messages. Ids are unique to the process and the message."""

    def __init__(self, digest_subject: str, rejected_subject: str) -> None:
        super().__init__(digest_subject, rejected_subject)
        # 96 random bits, number of the batch, number in it.
        self._process_id = secrets.token_hex(12)
        self._next = 1
        self._framer = outgoing.Framer()
        self._unsent: deque[_Write] = deque()
        self._sent: deque[_Write] = deque()

    @property
    def full(self) -> bool:
        return False  # the window's bytes are the limit

    @property
    def sendable(self) -> bool:
        return bool(self._unsent)

    @property
    def sent_below(self) -> int:
        return next((write.number for write in self._unsent if not write.sends), self._next)

    @property
    def confirmed_below(self) -> int:
        first = self._sent or self._unsent
        return first[0].number if first else self._next

    def add(self, batches: Sequence[Outgoing], go_on: Callable[[], bool]) -> InFlightBatch | None:
        write = _Write(joined(batches), self._next)
        self._next += 1
        self._unsent.append(write)
        return InFlightBatch(write.records, write.number, 1, requests_in(batches))

    def on_connected(self, connection: Connection) -> None:
        self._send_again()

    def send(self, connection: Connection, most: int) -> PublishBlocked | None:
        while self._unsent:
            write = self._unsent[0]
            wire, write.digests, write.rejections, write.given_up, largest = self._framer.to_wire(
                write.records,
                self.digest_subject,
                self.rejected_subject,
                f"{self._process_id}-{write.number}-".encode(),
                connection.max_payload,
                b"PING\r\n",
            )
            if largest > connection.max_payload:
                # What is after it must not overtake it: one connection, one order.
                return PublishBlocked(self.too_large(largest, connection.max_payload).reason)
            write.ping = connection.count_ping()
            connection.send(wire)
            if write.sends:
                self.resent += write.digests + write.rejections
            write.sends += 1
            self._sent.append(self._unsent.popleft())
        return None

    def read(self, buffer: bytearray, end: int) -> ReadResult:
        found, position = frames.scan(buffer, 0, end)
        return ReadResult(position, [(kind, text) for kind, *_, text in found])

    def on_pong(self, pongs: int) -> None:
        while self._sent and self._sent[0].ping <= pongs:
            write = self._sent.popleft()
            self.digests += write.digests
            self.rejections += write.rejections
            self.rejections_given_up += write.given_up

    def on_server_error(self, message: str) -> PublishBlocked | None:
        if f'"{self.rejected_subject.decode()}"' not in message:
            # Which one it was is not said; a PONG after it must not confirm any.
            self._send_again()
            return PublishBlocked(message)
        # A rejection that nobody may hear of must not hold up the digests. Answers come in order:
        # it was in the first write without its PONG.
        if self._sent:
            self._sent[0].rejections -= 1
            self._sent[0].given_up += 1
        self._trouble("the server does not let us publish rejections", reason=message)
        return None

    def retry(self) -> None:
        """What the server did not take is unsent already."""

    def _send_again(self) -> None:
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
