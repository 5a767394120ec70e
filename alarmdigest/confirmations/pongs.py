"""Confirmation with plain NATS: a PONG tells that the server has taken all before the PING."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from alarmdigest._ext import frames, outgoing
from alarmdigest.batches import Outgoing
from alarmdigest.confirmations.window import Held, Sent, Window, answers_in, joined
from alarmdigest.nats.connection import Connection
from alarmdigest.store.base import Outputs


class PongWindow(Window):
    """Plain NATS: every write ends with a PING, and its PONG confirms all that stands before it."""

    def __init__(self, digest_subject: str, rejected_subject: str) -> None:
        super().__init__(digest_subject, rejected_subject)
        # Ids are unique to the process and the message: 96 random bits, batch, place in the batch.
        self._process_id = secrets.token_hex(12)
        self._batches = 0
        self._pongs = 0

    def opened(self, connection: Connection) -> None:
        self._pongs = 0

    def scan(self, buffer: bytearray, end: int) -> tuple[int, list[tuple[int, bytes]]]:
        found, position = frames.scan(buffer, 0, end)
        return position, [(kind, text) for kind, *_, text in found]

    def ponged(self, pongs: int) -> None:
        self._pongs = pongs

    def server_refused(self, message: str) -> None:
        if f'"{self._rejected_subject.decode()}"' not in message:
            # Which one it was is not said; a PONG behind it must not confirm any.
            self.forget_sent()
            raise Held(message)
        # A refusal that nobody may hear of must not hold up the digests. Answers come in
        # order: it was in the first batch without its PONG.
        if unconfirmed := self._sent():
            unconfirmed[0].refusals -= 1
            unconfirmed[0].given_up += 1
        self._trouble("the server does not let us publish refusals", reason=message)

    def check(self) -> None:
        """The connection's own pings tell when no answer comes."""

    def outputs(self) -> Outputs:
        return {}

    def _numbered(self, batches: Sequence[Outgoing]) -> Sent:
        self._batches += 1
        prefix = f"{self._process_id}-{self._batches}-".encode()
        return Sent(joined(batches), id_prefix=prefix, answers=answers_in(batches))

    def _write(self, connection: Connection, entry: Sent) -> None:
        wire, entry.digests, entry.refusals, entry.given_up, largest = outgoing.to_wire(
            entry.batch,
            self._digest_subject,
            self._rejected_subject,
            entry.id_prefix,
            connection.max_payload,
        )
        if largest > connection.max_payload:
            raise self._too_large(largest, connection)
        entry.ping = connection.count_ping()
        connection.send(wire + b"PING\r\n")

    def _confirmed(self, entry: Sent) -> bool:
        return entry.sent and entry.ping <= self._pongs

    def _count(self, entry: Sent) -> None:
        self.digests += entry.digests
        self.refusals += entry.refusals
        self.refusals_given_up += entry.given_up
