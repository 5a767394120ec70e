"""Leader messages: on their way into the digest stream, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from alarmdigest.nats.answers import StoredMessage
from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.replication.exchange import Identity
from alarmdigest.replication.leadership import PublishElection, Refused, Stored
from alarmdigest.replication.subjects import leader_subject

WRONG_LAST_SEQUENCE = 10071


class Election(NamedTuple):
    """A leader message. ``sequence`` 0: there is none. Texts are empty, ``fields`` are what else it
    says, as far as it is a leader message: anybody may publish there."""

    sequence: int
    nonce: str
    incarnation: str
    name: str
    fields: dict[str, Any]


NO_ELECTION = Election(0, "", "", "", {})


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


def read_election(message: StoredMessage | None) -> Election:
    """A message of the leader subject; None is that there is none."""
    if message is None:
        return NO_ELECTION
    try:
        fields = orjson.loads(message.payload)
    except ValueError:
        fields = {}
    if not isinstance(fields, dict):
        fields = {}
    texts = (fields.get(name) for name in ("nonce", "incarnation", "name"))
    nonce, incarnation, name = (text if isinstance(text, str) else "" for text in texts)
    return Election(message.seq, nonce, incarnation, name, fields)


def publish_election(
    js: JetStream,
    question: PublishElection,
    identity: Identity,
    told: dict[str, Any],
    meant: tuple[str, str],
) -> Stored | Refused:
    """``meant`` are the digest stream and its domain. Raises NatsError where it is not known
    whether it is stored."""
    body = election_body(identity, question.nonce, told)
    headers = b""
    if question.expected is not None:
        headers = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % (
            question.expected
        )
    try:
        ack = js.publish(leader_subject(identity.group), body, headers, meant)
    except JetStreamError as error:
        if error.err_code == WRONG_LAST_SEQUENCE:
            return Refused()
        raise
    return Stored(ack.sequence)


def find_last_election(js: JetStream, stream: str, group: str) -> Election:
    """Asks the stream's leader. Raises NatsError."""
    return read_election(js.find_message(stream, {"last_by_subj": leader_subject(group)}))
