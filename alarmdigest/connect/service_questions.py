"""Questions to the running service, over a connection of ours; docs/wire.md has them.

Of a group the leader is asked first, then, where that does no harm, whoever has read to the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from alarmdigest.nats.errors import NoAnswer
from alarmdigest.nats.requests import Requests
from alarmdigest.settings import Settings
from alarmdigest.wire.queries import addressee

ANSWERS_WITHIN_S = 2.0
LEADER_ONLY = ("leader", "leader")
ANYBODY = ("leader", "any")


class Refused(NoAnswer):
    """What the service says instead of an answer."""


def ask(
    requests: Requests,
    settings: Settings,
    name: str,
    items: str,
    *,
    whom: Iterable[str] = ANYBODY,
    **asked: Any,
) -> dict[str, Any]:
    """The whole answer; ``items`` is the name of its list, which may come in parts.

    Raises NoAnswer where nobody answers in time, Refused, ConnectionLost and JetStreamDenied.
    """
    to = addressee(
        requests=settings.request_subject, digests=settings.digest_subject, group=settings.group
    )
    subject = f"{settings.query_subject}.{name}"
    silence: NoAnswer | None = None
    for one in whom:
        body = orjson.dumps({**asked, **to, "whom": one})
        try:
            return _whole(requests.ask_parts(subject, body, timeout_s=ANSWERS_WITHIN_S), items)
        except NoAnswer as error:
            silence = error
    raise silence or NoAnswer(f"nobody was asked {subject}")


def _whole(parts: Iterable[bytes], items: str) -> dict[str, Any]:
    first: dict[str, Any] | None = None
    for body in parts:
        if (part := _part(body, items)) is None:
            continue
        if first is None:
            first = part
        elif (part.get("replica"), part.get("at")) == (first.get("replica"), first.get("at")):
            first[items] += part[items]
        else:
            continue  # another replica was slower
        if part.get("last"):
            return first
    raise NoAnswer("the answer ended before its last part")


def _part(body: bytes, items: str) -> dict[str, Any] | None:
    """None for what is no answer: anybody who may can send one. Raises Refused."""
    try:
        part = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(part, dict):
        return None
    if "error" in part:
        raise Refused(f"the service says: {part['error']}")
    return part if isinstance(part.get(items), list) else None
