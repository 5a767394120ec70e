"""The digests of one user that their stream holds, by the request that each answers."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from alarmdigest.cli.client import connect, read_digest
from alarmdigest.nats.answers import StartAt
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.settings import HEADER_ROOM_BYTES, Settings, SettingsError

BATCH = 2000
FETCH_BYTES = 32 * 1024 * 1024
INACTIVE_S = 30.0
MOST_ALARMS = 1_000_000
"""So many entries of digests are kept in memory."""

_REQUEST = re.compile(rb"\r\nAlarmdigest-Request: *(\d+) ")


@dataclass(slots=True)
class FoundDigest:
    """``sequences`` are its messages in the digest stream, several for one that was split;
    ``alarms`` are ids with status."""

    sequences: list[int] = field(default_factory=list)
    alarms: list[tuple[str, str]] = field(default_factory=list)


def digests_of_user(
    settings: Settings, user_id: str, since_ns: int, tell: Callable[[int], object]
) -> dict[int, FoundDigest]:
    """All since then, by the sequence of their request; ``tell`` is called with how many messages
    were read whenever some were. Raises NatsError, and SettingsError for too many."""
    connection = connect(settings, "alarmdigest-history-digests")
    name = f"alarmdigest-history-{secrets.token_hex(8)}"
    stream, user = settings.digests_stream, user_id.encode()
    found: dict[int, FoundDigest] = {}
    kept = 0
    try:
        js = JetStream(connection, domain=settings.js_domain)
        if js.stream_info(stream) is None:
            return found
        js.create_consumer(
            stream,
            name=name,
            start=StartAt("time", since_ns),
            filter_subjects=[settings.digest_subject],
            inactive_s=INACTIVE_S,
        )
        most = max(FETCH_BYTES, connection.max_payload + HEADER_ROOM_BYTES + 64 * 1024)
        while batch := js.fetch(stream, name, batch=BATCH, max_bytes=most):
            for message in batch:
                # Ids are written as they are, but for what JSON escapes.
                if user not in message.payload and b"\\" not in message.payload:
                    continue
                digest, request = read_digest(message.payload), _REQUEST.search(message.headers)
                if digest is None or digest["UserID"] != user_id or request is None:
                    continue
                try:
                    alarms = [(str(a["AlarmID"]), str(a["Status"])) for a in digest["ActiveAlarms"]]
                except (KeyError, TypeError):
                    continue  # somebody else wrote it
                one = found.setdefault(int(request[1]), FoundDigest())
                one.sequences.append(message.ack.stream_seq)
                one.alarms += alarms
                kept += len(alarms) + 1
                if kept > MOST_ALARMS:
                    raise SettingsError(
                        f"the digests of this user hold more than {MOST_ALARMS} alarms: choose a "
                        "shorter --since"
                    )
            tell(len(batch))
            if batch[-1].ack.pending == 0:
                break
        with suppress(NatsError):  # else the server forgets it by itself
            js.delete_consumer(stream, name)
        return found
    finally:
        connection.close()
