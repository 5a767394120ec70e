"""Reading a bucket from some entry on to its end: the newest entry of each key, in their order."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from alarmdigest.nats.answers import StartAt, StreamInfo
from alarmdigest.nats.jetstream import JetStream

BATCH = 2000
FETCH_BYTES = 4 * 1024 * 1024
# Up to so many entries are asked for one by one, which takes no consumer.
FEW = 256


def entries_from(js: JetStream, info: StreamInfo, first: int) -> Iterator[tuple[int, bytes]]:
    """Sequence and body of each entry at or after ``first``, of the stream that ``info`` describes.

    Raises what JetStream's requests raise, after having given some perhaps.
    """
    following = max(first, info.first_seq)
    if info.last_seq - following >= FEW:
        for sequence, body in _by_consumer(js, info.name, following):
            yield sequence, body
            following = sequence + 1
    # The end always from the leader: a consumer may live on a server that lags.
    while found := js.leader_messages(info.name, following):
        for sequence, _headers, body in found:
            yield sequence, body
        following = found[-1][0] + 1


def _by_consumer(js: JetStream, stream: str, first: int) -> Iterator[tuple[int, bytes]]:
    name = f"alarmdigest-reader-{secrets.token_hex(6)}"
    made = js.create_consumer(stream, name=name, start=StartAt("sequence", first))
    left = int(made.get("num_pending") or 0)
    try:
        while left > 0:
            got = js.fetch(stream, name, batch=BATCH, max_bytes=FETCH_BYTES)
            if not got:
                break
            for one in got:
                yield one.ack.stream_seq, one.payload
            left = got[-1].ack.pending
    finally:
        js.delete_consumer(stream, name)
