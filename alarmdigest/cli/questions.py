"""Asking a running service: its leader first, then whoever of a group is ready."""

from __future__ import annotations

import time
from typing import Any

import orjson

from alarmdigest.cli.client import connect
from alarmdigest.cli.subscription import Subscription
from alarmdigest.nats.connection import Connection
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
    try:
        for whom, seconds in (("leader", LEADER_S), ("any", ANYBODY_S)):
            answers = _publish(connection, settings, name, {**asked, "whom": whom})
            found = _collect(answers, items, time.monotonic() + seconds)
            if found is not None:
                return found
    finally:
        connection.close()
    raise _nobody(connection, settings, name)


def ask_all(settings: Settings, name: str, items: str, **asked: Any) -> list[dict[str, Any]]:
    """What every replica answers within a second. Raises as ``ask`` does."""
    connection = connect(settings, "alarmdigest-ask")
    try:
        answers = _publish(connection, settings, name, {**asked, "whom": "any"})
        until = time.monotonic() + LEADER_S
        found = []
        for headers, body in answers.messages(until):
            if headers.startswith(NO_RESPONDERS):
                break
            if (part := _read(body, items)) is not None:
                found.append(part)
    finally:
        connection.close()
    if not found:
        raise _nobody(connection, settings, name)
    return found


def _publish(
    connection: Connection, settings: Settings, name: str, asked: dict[str, Any]
) -> Subscription:
    inbox = connection.new_inbox()
    answers = Subscription(connection, inbox)
    to = addressee(
        requests=settings.request_subject, digests=settings.digest_subject, group=settings.group
    )
    body = orjson.dumps({**asked, **to})
    place = f"{settings.query_subject}.{name} {inbox} {len(body)}".encode()
    connection.send(b"PUB %b\r\n%b\r\n" % (place, body))
    return answers


def _nobody(connection: Connection, settings: Settings, name: str) -> NoAnswer:
    return NoAnswer(
        f"{connection.url}: no service answers {settings.query_subject}.{name}: is one running, "
        "with this --query-subject, --request-subject and --digest-subject, and the same --group?"
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
