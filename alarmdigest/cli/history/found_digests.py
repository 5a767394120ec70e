"""The digests of one user that their stream holds, by the request that each answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from alarmdigest._ext import timestamps
from alarmdigest.cli.client import MESSAGE_ID, connect, read_digest
from alarmdigest.nats.answers import StartAt
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.settings import HEADER_ROOM_BYTES, Settings, SettingsError
from alarmdigest.wire.messages import ANSWERED_REQUEST, STATUSES, STORED_THROUGH

BATCH = 2000
FETCH_BYTES = 32 * 1024 * 1024
INACTIVE_S = 30.0
MOST_BYTES = 128 * 1024 * 1024
"""So much of digests is kept in memory, as they are written."""


@dataclass(slots=True)
class FoundDigest:
    """``sequences`` are its messages in the digest stream, several for one that was split, and
    ``ids`` theirs; ``alarms`` are ids with status and time in ns."""

    sequences: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    alarms: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class FoundDigests:
    """Those of one user by their request: its sequence, and its time in ns, since a stream that was
    made anew numbers from 1 again. ``stored_through``: all digests of requests up to that one are
    stored, says the service in headers of later ones."""

    by_request: dict[tuple[int, int], FoundDigest] = field(default_factory=dict)
    stored_through: tuple[int, int] = (0, 0)


def digests_of_user(
    settings: Settings, user_id: str, since_ns: int, tell: Callable[[int], object]
) -> FoundDigests:
    """All since then; ``tell`` is called with how many messages were read whenever some were.
    Raises NatsError, and SettingsError for too many."""
    connection = connect(settings, "alarmdigest-history-digests")
    name = f"alarmdigest-history-{secrets.token_hex(8)}"
    stream, user = settings.digests_stream, user_id.encode()
    found = FoundDigests()
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
                if (header := ANSWERED_REQUEST.search(message.headers)) is None:
                    continue
                request = (int(header[1]), int(header[2]))
                if (mark := STORED_THROUGH.search(message.headers)) is not None:
                    through = (int(mark[1]), int(mark[2]))
                    # By time first: the numbers of a stream that was made anew are smaller.
                    found.stored_through = max(found.stored_through, through, key=_time_first)
                # Ids are written as they are, but for what JSON escapes.
                if user not in message.payload and b"\\" not in message.payload:
                    continue
                if (alarms := _alarms_of(message.payload, user_id)) is None:
                    continue
                one = found.by_request.setdefault(request, FoundDigest())
                one.sequences.append(message.ack.stream_seq)
                if (message_id := MESSAGE_ID.search(message.headers)) is not None:
                    one.ids.append(message_id[1].decode("utf-8", "replace"))
                one.alarms += alarms
                kept += len(message.payload)
                if kept > MOST_BYTES:
                    raise SettingsError(
                        f"the digests of this user are more than {MOST_BYTES >> 20} MiB: choose a "
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


def _time_first(place: tuple[int, int]) -> tuple[int, int]:
    return place[::-1]


def _alarms_of(payload: bytes, user_id: str) -> list[tuple[str, int, int]] | None:
    """None for another user's digest, and for what is none: anybody who may can write one."""
    digest = read_digest(payload)
    if digest is None or digest["UserID"] != user_id:
        return None
    try:
        return [
            (str(a["AlarmID"]), STATUSES[a["Status"]], timestamps.to_ns(a["LatestChangedAt"]))
            for a in digest["ActiveAlarms"]
        ]
    except (KeyError, TypeError, ValueError):
        return None
