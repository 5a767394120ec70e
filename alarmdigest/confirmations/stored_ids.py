"""Which messages an output stream holds already, by their ids."""

from __future__ import annotations

import secrets

from alarmdigest.nats.answers import StartAt
from alarmdigest.nats.errors import ConnectionLost
from alarmdigest.nats.jetstream import JetStream

# Ids are read in pulls of so much. Of messages whose headers alone are sent, only those count; a
# stream takes up to 64 KiB of them, and a pull must hold the largest.
IDS_PER_PULL = 10_000
BYTES_PER_PULL = 32 * 1024 * 1024


def ids_after(js: JetStream, stream: str, seq: int) -> dict[str, int]:
    """The ``Nats-Msg-Id`` of every message behind ``seq``, with its sequence.

    An id that is there twice has its first sequence: what is said to be confirmed must not lie
    ahead of what is.
    """
    ids: dict[str, int] = {}
    name = f"ids-{secrets.token_hex(8)}"
    made = js.create_consumer(
        stream, name=name, start=StartAt("sequence", seq + 1), headers_only=True, inactive_s=30
    )
    pending, expected = int(made.get("num_pending", 0)), 1
    while pending:
        got = js.fetch(stream, name, batch=IDS_PER_PULL, max_bytes=BYTES_PER_PULL)
        for ack, headers, _payload in got:
            if ack.consumer_seq != expected:
                raise ConnectionLost(f"stream {stream}: messages were lost on the way to us")
            expected += 1
            if (found := _message_id(headers)) is not None:
                ids.setdefault(found, ack.stream_seq)
        # Nothing came: they were deleted meanwhile.
        pending = got[-1].ack.pending if got else 0
    js.delete_consumer(stream, name)
    return ids


def _message_id(headers: bytes) -> str | None:
    _before, name, after = headers.partition(b"\r\nNats-Msg-Id:")
    return after.partition(b"\r\n")[0].strip().decode("utf-8", "replace") if name else None
