"""Asking a running service: its leader first, then whoever of a group is ready."""

from __future__ import annotations

import sys
import time
from typing import Any

import orjson

from alarmdigest.cli.client import connect
from alarmdigest.cli.subscription import Subscription
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import NoAnswer
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.wire.queries import addressee

# For so long the leader is waited for, then, so often, anybody. A late answer is one, too.
WAIT_S = 2.0
WHOM = ("leader", "any", "any", "any")
# Once an answer has begun to come, its other parts follow.
PARTS_S = 10.0
# How often it is looked whether an answer is whole.
STEP_S = 0.02
# All replicas are to answer.
ALL_S = 1.0
NO_RESPONDERS = b"NATS/1.0 503"


class ServiceBusy(NoAnswer):
    """It is there, and has no time."""


def ask(settings: Settings, name: str, items: str, **asked: Any) -> dict[str, Any]:
    """The answer of one service; ``items`` is the name of its list, which may come in parts.

    Raises NatsError, NoAnswer where nobody answers, and SettingsError for what a service refuses.
    """
    connection = connect(settings, "alarmdigest-ask")
    try:
        inbox = connection.new_inbox()
        answers = Subscription(connection, inbox)
        busy = ""
        for whom in WHOM:
            _publish(connection, settings, name, inbox, {**asked, "whom": whom})
            try:
                if (found := _collect(answers, items)) is not None:
                    return found
            except ServiceBusy as error:
                busy = str(error)
    finally:
        connection.close()
    raise ServiceBusy(busy) if busy else _nobody(connection, settings, name)


def ask_all(settings: Settings, name: str, items: str, **asked: Any) -> list[dict[str, Any]]:
    """What every replica answers within a second. Raises as ``ask`` does."""
    connection = connect(settings, "alarmdigest-ask")
    try:
        inbox = connection.new_inbox()
        answers = Subscription(connection, inbox)
        _publish(connection, settings, name, inbox, {**asked, "whom": "any"})
        found: list[dict[str, Any]] = []
        refusals: list[ServiceBusy | SettingsError] = []
        for headers, body in answers.messages(time.monotonic() + ALL_S):
            if headers.startswith(NO_RESPONDERS):
                break
            try:
                if (part := _read(body, items)) is not None:
                    found.append(part)
            except (ServiceBusy, SettingsError) as refused:
                refusals.append(refused)
    finally:
        connection.close()
    if not found:
        raise refusals[0] if refusals else _nobody(connection, settings, name)
    # What one of them does not do is no failure of the others.
    for refusal in refusals:
        print(f"alarmdigest: one of several: {printable(str(refusal))}", file=sys.stderr)
    return found


def _publish(
    connection: Connection, settings: Settings, name: str, inbox: str, asked: dict[str, Any]
) -> None:
    to = addressee(
        requests=settings.request_subject, digests=settings.digest_subject, group=settings.group
    )
    body = orjson.dumps({**asked, **to})
    place = f"{settings.query_subject}.{name} {inbox} {len(body)}".encode()
    connection.send(b"PUB %b\r\n%b\r\n" % (place, body))


def _nobody(connection: Connection, settings: Settings, name: str) -> NoAnswer:
    return NoAnswer(
        f"{connection.url}: no service answers {settings.query_subject}.{name}: is one running, "
        "with this --query-subject, --request-subject and --digest-subject, and the same --group?"
    )


def _collect(answers: Subscription, items: str) -> dict[str, Any] | None:
    """All parts of the first answer; None where nobody answers in time."""
    first: dict[str, Any] | None = None
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for headers, body in answers.messages(min(deadline, time.monotonic() + STEP_S)):
            if headers.startswith(NO_RESPONDERS):
                return None
            if (part := _read(body, items)) is None:
                continue
            if first is None:
                first, deadline = part, time.monotonic() + PARTS_S
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
        said = f"the service says: {part['error']}"
        raise ServiceBusy(said) if part.get("busy") else SettingsError(said)
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
