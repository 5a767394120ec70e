"""What would be sent, and to whom; nothing is sent, acknowledged or made for good."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from alarmdigest.connect.deliver.composer import Composer
from alarmdigest.connect.deliver.consumer import Arrived, DigestJetStream
from alarmdigest.connect.deliver.digests import Assembler, Digest, Unreadable, read_digest
from alarmdigest.connect.deliver.dispatch import worst_of
from alarmdigest.connect.deliver.routes import Routes
from alarmdigest.connect.deliver.work import renderers_of
from alarmdigest.nats.answers import StartAt
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConsumerGone, StreamMissing
from alarmdigest.settings import Settings

BATCH = 100
FETCH_BYTES = 8 * 1024 * 1024


def would_be_sent(
    connection: Connection, settings: Settings, routes: Routes
) -> Iterator[dict[str, Any]]:
    """Of each digest that is not acknowledged: what each target would get. Those that are sent
    just now, too.

    Raises SettingsError and NatsError.
    """
    js = DigestJetStream(connection, domain=settings.js_domain)
    renderers = renderers_of(routes.messages)
    composer = Composer(settings, routes.storage.details_bucket, routes.messages.most_rows)
    assembler = Assembler(0.0)
    for digest in _waiting(js, settings, routes.consumer.name):
        for parts in (*assembler.due(0.0), *assembler.add(digest, 0.0)):
            yield from _of_one(js, composer, renderers, routes, parts)
    for parts in assembler.due(1.0):
        yield from _of_one(js, composer, renderers, routes, parts)


def _waiting(js: DigestJetStream, settings: Settings, consumer: str) -> Iterator[Digest]:
    stream = settings.digests_stream
    if js.stream_info(stream) is None:
        raise StreamMissing(f"there is no stream {stream}: check --digests-stream")
    try:
        start = StartAt("sequence", js.standing(stream, consumer).floor + 1)
    except ConsumerGone:  # it has never run
        start = StartAt("first")
    name = f"alarmdigest-deliver-dry-run-{secrets.token_hex(6)}"
    there = js.create_consumer(
        stream, name=name, start=start, filter_subjects=[settings.digest_subject]
    )
    left = int(there.get("num_pending") or 0)
    try:
        while left > 0 and (got := js.fetch(stream, name, batch=BATCH, max_bytes=FETCH_BYTES)):
            left = got[-1].ack.pending
            for one in got:
                ack = one.ack
                arrived = Arrived(
                    ack.stream_seq, 1, ack.timestamp_ns, b"", one.headers, one.payload
                )
                try:
                    yield read_digest(arrived, stream, again=False)
                except Unreadable:
                    continue
    finally:
        js.delete_consumer(stream, name)


def _of_one(
    js: DigestJetStream,
    composer: Composer,
    renderers: Any,
    routes: Routes,
    parts: list[Digest],
) -> Iterator[dict[str, Any]]:
    user_id = parts[0].user_id
    head = {"UserID": user_id, "digests": [part.digest_id for part in parts]}
    ways = routes.ways(user_id)
    if not ways:
        yield {**head, "target": "", "problem": "no route covers this user"}
        return
    message = composer.compose(js, parts, None).message
    for way in ways:
        if not way.wants(worst_of(parts)):
            continue
        if way.problem:
            yield {**head, "target": "", "problem": f"{way.target.name}: {way.problem}"}
            continue
        rendered = renderers.render(message, way)
        form = way.target.form
        body = {"html": rendered.html, "short": rendered.short}.get(form, rendered.text)
        yield {
            **head,
            "target": way.target.name,
            "format": form,
            "subject": rendered.subject,
            "body": body,
        }
