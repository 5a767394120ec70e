"""Asking a running service: its leader first, then whoever of a group is ready."""

from __future__ import annotations

import time
from typing import Any

import orjson

from alarmdigest.cli.client import connect
from alarmdigest.cli.subscription import Subscription
from alarmdigest.nats.errors import NoAnswer
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.wire.queries import addressee

LEADER_S = 1.0
ANYBODY_S = 4.0
NO_RESPONDERS = b"NATS/1.0 503"


def ask(settings: Settings, name: str, items: str, **asked: Any) -> dict[str, Any]:
    """The answer of one service; ``items`` is the name of its list, which may come in parts.

    Raises NatsError, NoAnswer where nobody answers, and SettingsError for what a service refuses.
    """
    connection = connect(settings, "alarmdigest-ask")
    subject = f"{settings.query_subject}.{name}"
    to = addressee(
        requests=settings.request_subject, digests=settings.digest_subject, group=settings.group
    )
    try:
        for whom, seconds in (("leader", LEADER_S), ("any", ANYBODY_S)):
            inbox = connection.new_inbox()
            answers = Subscription(connection, inbox)
            body = orjson.dumps({**asked, **to, "whom": whom})
            place = f"{subject} {inbox} {len(body)}".encode()
            connection.send(b"PUB %b\r\n%b\r\n" % (place, body))
            found = _collect(answers, items, time.monotonic() + seconds)
            if found is not None:
                return found
    finally:
        connection.close()
    raise NoAnswer(
        f"{connection.url}: no service answers {subject}: is one running, with this "
        "--query-subject, --request-subject and --digest-subject, and the same --group?"
    )


def _collect(answers: Subscription, items: str, deadline: float) -> dict[str, Any] | None:
    """All parts of the first answer; None where nobody answers in time."""
    first: dict[str, Any] | None = None
    while time.monotonic() < deadline:
        for headers, body in answers.messages(min(deadline, time.monotonic() + 0.05)):
            if headers.startswith(NO_RESPONDERS):
                return None
            if (part := _read(body, items)) is None:
                continue
            if first is None:
                first = part
            elif (part.get("replica"), part.get("at")) == (first["replica"], first["at"]):
                first[items] += part[items]
            else:
                continue  # another replica was slower
            if part.get("last"):
                return first
    return None


def _read(body: bytes, items: str) -> dict[str, Any] | None:
    """None for what is no answer: anybody who may can send one. Raises SettingsError."""
    try:
        part = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(part, dict):
        return None
    if "error" in part:
        raise SettingsError(f"the service says: {part['error']}")
    return part if {"replica", "leads", "behind", "at", items} <= part.keys() else None


def who(answer: dict[str, Any]) -> str:
    """Who has answered, and how new that is."""
    name = "the running service"
    if answer["replica"] is not None:
        name = f"replica {answer['replica']}" + (", the leader" if answer["leads"] else "")
    behind = answer["behind"]
    if behind:
        name += f", {behind} messages behind"
    elif behind is None and answer["leads"] is not None:
        name += ", which does not know how far behind it is"
    return name
