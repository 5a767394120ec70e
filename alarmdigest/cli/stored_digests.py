"""The digests that their stream takes from now on: what receivers read, whoever publishes it."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from alarmdigest.cli.client import connect, read_digest
from alarmdigest.nats.answers import StartAt
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.settings import HEADER_ROOM_BYTES, Settings

POLL_S = 0.02
BATCH = 1000
# Long enough for whoever looks now and then, and then the server forgets the consumer by itself.
INACTIVE_S = 60.0


class StoredDigests:
    """An ephemeral consumer of the digest stream on a connection of its own."""

    def __init__(self, settings: Settings) -> None:
        """Raises NatsError, also where the stream is missing or may not be looked into."""
        self._stream = settings.digests_stream
        self._name = f"alarmdigest-verify-{secrets.token_hex(8)}"
        self._arrived: deque[bytes] = deque()
        self._connection = connect(settings, "alarmdigest-verify-stream")
        self._max_bytes = self._connection.max_payload + HEADER_ROOM_BYTES + 64 * 1024
        try:
            self._jetstream = JetStream(self._connection, domain=settings.js_domain)
            self._jetstream.create_consumer(
                self._stream,
                name=self._name,
                start=StartAt("new"),
                filter_subjects=[settings.digest_subject],
                inactive_s=INACTIVE_S,
            )
        except NatsError:
            self._connection.close()
            raise

    def until(self, deadline: float) -> Iterator[dict[str, Any]]:
        """The digests that are stored until the given ``time.monotonic()``, as they come.

        Raises NatsError.
        """
        while True:
            while self._arrived:
                if (digest := read_digest(self._arrived.popleft())) is not None:
                    yield digest
            late = time.monotonic() >= deadline
            found = self._jetstream.fetch(
                self._stream, self._name, batch=BATCH, max_bytes=self._max_bytes
            )
            self._arrived += [message.payload for message in found]
            if not found:
                if late:
                    return
                time.sleep(POLL_S)

    def close(self) -> None:
        with suppress(NatsError):  # else the server forgets it by itself
            self._jetstream.delete_consumer(self._stream, self._name)
        self._connection.close()
