"""Dead letters, sent once more: ``deliver --retry-dead``.

Each is removed only once it is delivered, or stands in the stream anew with what went wrong now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.deliver.composer import Composer
from alarmdigest.connect.deliver.consumer import Arrived, DigestJetStream
from alarmdigest.connect.deliver.dead_letters import (
    Dead,
    Undelivered,
    messages_of,
    read_undelivered,
)
from alarmdigest.connect.deliver.delivered import SENT, Delivered
from alarmdigest.connect.deliver.digests import Digest, Unreadable, read_digest
from alarmdigest.connect.deliver.dispatch import worst_of
from alarmdigest.connect.deliver.pool import Renderers
from alarmdigest.connect.deliver.routes import Routes, Way
from alarmdigest.connect.deliver.sender import send
from alarmdigest.connect.deliver.work import renderers_of
from alarmdigest.connect.publishing import Outgoing
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import JetStreamError, NoAnswer, StreamMissing
from alarmdigest.settings import Settings


class Retried(NamedTuple):
    """``problem`` is empty where it is delivered now."""

    user_id: str
    target: str
    problem: str


def retry(connection: Connection, settings: Settings, routes: Routes) -> Iterator[Retried]:
    """Those that are there now, the oldest first. Raises SettingsError and NatsError."""
    js = DigestJetStream(connection, domain=settings.js_domain)
    stream = routes.storage.dead_stream
    info = js.stream_info(stream)
    if info is None:
        raise StreamMissing(f"there is no stream {stream}: nothing was ever undeliverable")
    js.home = info.domain
    retrying = _Retrying(js, settings, routes)
    first = max(1, info.first_seq)
    while first <= info.last_seq:
        found = js.leader_messages(stream, first, subject=routes.storage.dead_subject)
        if not found:
            return
        for sequence, _headers, body in found:
            first = sequence + 1
            if sequence > info.last_seq:
                return
            yield from retrying.one(sequence, body)


class _Retrying:
    def __init__(self, js: DigestJetStream, settings: Settings, routes: Routes) -> None:
        storage = routes.storage
        self._js, self._settings, self._routes, self._storage = js, settings, routes, storage
        self._renderers: Renderers = renderers_of(routes.messages)
        self._composer = Composer(settings, storage.details_bucket, routes.messages.most_rows)
        self._delivered = Delivered(
            BucketConfig(storage.delivered_bucket, 0, -1, 1, settings.js_domain)
        )

    def one(self, sequence: int, body: bytes) -> Iterator[Retried]:
        letter = read_undelivered(sequence, body)
        if letter is None:
            yield Retried("", "", f"message {sequence} is no dead letter: left where it is")
            return
        parts = self._parts(letter)
        if not parts:
            yield Retried(
                letter.user_id, letter.target, "its digests cannot be read: left where it is"
            )
            return
        ways = [
            way
            for way in self._routes.ways(letter.user_id)
            if way.target.name == letter.target
            or (not letter.target and way.wants(worst_of(parts)))
        ]
        if not ways:
            why = (
                f"no route leads to the target {letter.target} any more"
                if letter.target
                else "no route covers this user"
            )
            yield Retried(letter.user_id, letter.target, f"{why}: left where it is")
            return
        again: list[Dead] = []
        results: list[Retried] = []
        for way in ways:
            problem = self._send(way, parts)
            if problem:
                again.append(
                    Dead(
                        letter.user_id,
                        way.target.name,
                        letter.reason if letter.target else "attempts",
                        problem,
                        letter.attempts + 1,
                        parts,
                        way.address,
                        retried=sequence,
                    )
                )
            results.append(Retried(letter.user_id, way.target.name, problem))
        self._publish(
            [
                one
                for dead in again
                for one in messages_of(dead, self._storage, self._js.max_payload)
            ]
        )
        # Only now: until here it could be tried again.
        self._js.request(
            f"STREAM.MSG.DELETE.{self._storage.dead_stream}", {"seq": sequence, "no_erase": True}
        )
        yield from results

    def _send(self, way: Way, parts: Sequence[Digest]) -> str:
        if way.problem:
            return way.problem
        if self._delivered.was_sent(self._js, parts, way.address):
            return ""  # an earlier run was ended before it could remove the dead letter
        message = self._composer.compose(self._js, parts, None).message
        problem = send(self._renderers.letter(message, way))
        if not problem:
            self._js.publish_all(
                [
                    self._delivered.entry(part.digest_id, way.address, way.target.name, SENT)
                    for part in parts
                ]
            )
        return problem

    def _publish(self, messages: Sequence[Outgoing]) -> None:
        for outcome in self._js.publish_all(messages):
            if outcome.problem:
                raise NoAnswer(f"not kept again, so it was left: {outcome.problem}")

    def _parts(self, letter: Undelivered) -> list[Digest]:
        """Empty where one of them cannot be read."""
        found: list[Digest] = []
        for told in letter.digests:
            try:
                body = orjson.dumps(told["body"]) if "body" in told else self._stored(told)
                arrived = Arrived(int(told["sequence"]), 1, int(told["at"]), b"", b"", body)
                digest = read_digest(arrived, self._settings.digests_stream, again=True)
            except (Unreadable, KeyError, TypeError, ValueError):
                return []
            digest.digest_id = str(told.get("id") or digest.digest_id)
            found.append(digest)
        return found

    def _stored(self, told: dict[str, Any]) -> bytes:
        """Of a body that was too large for a dead letter. Raises ValueError."""
        try:
            stored = self._js.stored_message(self._settings.digests_stream, int(told["sequence"]))
        except JetStreamError as error:
            raise ValueError(str(error)) from error
        if stored is None:
            raise ValueError("the stream of digests does not hold it any more")
        return stored[1]
