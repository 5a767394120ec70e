"""Leader messages on their way into the digest stream, and back."""

from __future__ import annotations

from typing import Any

import orjson

from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.replication.exchange import Identity
from alarmdigest.replication.leadership import (
    Answer,
    LastElection,
    PublishElection,
    Refused,
    Stored,
)
from alarmdigest.replication.subjects import leader_subject

WRONG_LAST_SEQUENCE = 10071


def election_body(identity: Identity, nonce: str, told: dict[str, Any]) -> bytes:
    """A leader message. ``told`` is what its leader tells of the group."""
    return orjson.dumps(
        {
            "group": identity.group,
            "name": identity.name,
            "incarnation": identity.incarnation,
            "nonce": nonce,
            **identity.about,
            **told,
        }
    )


def publish_election(
    js: JetStream, question: PublishElection, identity: Identity, told: dict[str, Any]
) -> Answer:
    """Raises NatsError where it is not known whether it is stored."""
    body = election_body(identity, question.nonce, told)
    headers = b""
    if question.expected is not None:
        headers = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % (
            question.expected
        )
    try:
        _stream, sequence = js.publish(leader_subject(identity.group), body, headers)
    except JetStreamError as error:
        if error.err_code == WRONG_LAST_SEQUENCE:
            return Refused()
        raise
    return Stored(sequence)


def ask_for_last_election(js: JetStream, stream: str, group: str) -> Answer:
    """Raises NatsError, ValueError."""
    found = js.find_message(stream, {"last_by_subj": leader_subject(group)})
    if found is None:
        return LastElection(0, "")
    return LastElection(found.seq, str(read_election(found.payload).get("nonce", "")))


def read_election(body: bytes) -> dict[str, Any]:
    """Empty for what is no leader message: anybody may publish there."""
    try:
        fields = orjson.loads(body)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
