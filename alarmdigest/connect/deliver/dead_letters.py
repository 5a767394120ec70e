"""What could not be delivered: messages of the stream ALARM_UNDELIVERED; docs/wire.md has them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from alarmdigest.connect.deliver.digests import Digest
from alarmdigest.connect.deliver.routes import StorageRules
from alarmdigest.connect.publishing import Outgoing
from alarmdigest.nats.errors import JetStreamError, StreamConflict, StreamMissing
from alarmdigest.nats.jetstream import NAME_IN_USE, JetStream
from alarmdigest.nats.subjects import covers
from alarmdigest.runtime.text import printable

REASONS = ("no_route", "no_address", "unreadable", "attempts", "too_old", "evicted")
# What JSON and headers take besides the digests.
ROOM_BYTES = 16 * 1024
MAX_DETAIL_CHARS = 1000


class Dead(NamedTuple):
    """Digests that did not reach a user by a target; without a target where there was none.
    ``retried`` is the sequence of the dead letter that was tried again, 0 for none."""

    user_id: str
    target: str
    reason: str
    detail: str
    attempts: int
    parts: Sequence[Digest]
    address: str = ""
    retried: int = 0


def messages_of(dead: Dead, storage: StorageRules, max_payload: int) -> list[Outgoing]:
    """One, or one for each part where together they are too large; what is too large even alone
    goes without its body, which stands in the stream of digests."""
    whole = _message(dead, dead.parts, storage)
    if len(whole.body) + ROOM_BYTES <= max_payload:
        return [whole]
    found = []
    for part in dead.parts:
        one = _message(dead, [part], storage)
        if len(one.body) + ROOM_BYTES > max_payload:
            one = _message(dead, [part], storage, cut=True)
        found.append(one)
    return found


def _message(
    dead: Dead, parts: Sequence[Digest], storage: StorageRules, *, cut: bool = False
) -> Outgoing:
    fields = {
        "UserID": dead.user_id,
        "target": dead.target,
        "reason": dead.reason,
        "detail": dead.detail[:MAX_DETAIL_CHARS],
        "attempts": dead.attempts,
    }
    try:
        body = orjson.dumps({**fields, "digests": [_part(part, cut=cut) for part in parts]})
    except orjson.JSONEncodeError:  # it is nested more deeply than can be written
        cut = True
        body = orjson.dumps({**fields, "digests": [_part(part, cut=True) for part in parts]})
    hashed = hashlib.sha256(
        "\n".join(
            (dead.target, dead.address, str(dead.retried), *(part.digest_id for part in parts))
        ).encode()
    ).hexdigest()
    lines = [
        f"Nats-Msg-Id: dead-{hashed[:32]}",
        f"Nats-Expected-Stream: {storage.dead_stream}",
        f"Alarmdigest-Reason: {dead.reason}",
        f"Alarmdigest-Detail: {_line(dead.detail)}",
        f"Alarmdigest-Target: {_line(dead.target)}",
    ]
    if cut:
        lines.append("Alarmdigest-Cut: true")
    headers = "NATS/1.0\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return Outgoing(storage.dead_stream, storage.dead_subject, body, headers.encode())


def _part(part: Digest, *, cut: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": part.digest_id[:MAX_DETAIL_CHARS],
        "sequence": part.sequence,
        "at": part.at_ns,
    }
    if not cut:
        try:
            told["body"] = orjson.loads(part.body)
        except orjson.JSONDecodeError:
            told["text"] = part.body.decode("utf-8", "replace")
    return told


def _line(text: str) -> str:
    return printable(" ".join(text.split()))[:300].encode("ascii", "backslashreplace").decode()


class Undelivered(NamedTuple):
    """A dead letter as it stands in its stream."""

    sequence: int
    user_id: str
    target: str
    reason: str
    attempts: int
    digests: Sequence[dict[str, Any]]


def read_undelivered(sequence: int, body: bytes) -> Undelivered | None:
    """None for what is none."""
    try:
        told = orjson.loads(body)
        digests = [one for one in told["digests"] if isinstance(one, dict)]
        return Undelivered(
            sequence,
            str(told["UserID"]),
            str(told["target"]),
            str(told["reason"]),
            int(told["attempts"]),
            digests,
        )
    except (ValueError, KeyError, TypeError):
        return None


def ensure_stream(js: JetStream, storage: StorageRules, *, replicas: int, create: bool) -> None:
    """Made where it is missing and ``create``. Raises StreamMissing, StreamConflict, and what
    requests raise."""
    info = js.stream_info(storage.dead_stream)
    if info is None and not create:
        raise StreamMissing(
            f"there is no stream {storage.dead_stream} and --no-create-streams was given: make it "
            f"with `nats stream add {storage.dead_stream} --subjects {storage.dead_subject} "
            "--defaults`"
        )
    if info is None:
        config = {
            "name": storage.dead_stream,
            "subjects": [storage.dead_subject],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_age": storage.dead_max_age,
            "max_bytes": storage.dead_max_bytes,
            "num_replicas": replicas,
        }
        try:
            info = js.create_stream(config)
        except JetStreamError as error:
            if error.err_code != NAME_IN_USE:
                raise
            info = js.stream_info(storage.dead_stream)
    if info is None or not any(covers(one, storage.dead_subject) for one in info.subjects):
        raise StreamConflict(
            f"stream {storage.dead_stream} does not capture {storage.dead_subject}: name another "
            "one with dead_stream in [storage]"
        )
