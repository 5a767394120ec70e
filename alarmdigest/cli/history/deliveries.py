"""What stands beside a request and its digest: for when it was scheduled, and who was told by which
way. Both are told where they can be had, and left out where not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from alarmdigest.cli.client import connect
from alarmdigest.connect.deliver.digests import key_of_id
from alarmdigest.nats.answers import StoredMessage
from alarmdigest.nats.errors import NatsError
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.settings import Settings

BUCKET: Final = "ALARM_DELIVERED"
# Each takes a question to the server or two.
MOST_ASKED: Final = 2000
_SCHEDULED: Final = re.compile(rb"\r\nAlarmdigest-Scheduled: *([0-9TZ:.-]{1,40})\r\n")


class Delivery(NamedTuple):
    """``outcome`` is ``sent`` or ``dead``; ``at`` as RFC 3339."""

    target: str
    outcome: str
    at: str


class Beside:
    """Asks the server, over a connection of its own, as long as it answers."""

    def __init__(self, settings: Settings) -> None:
        """Raises NatsError."""
        self._stream = settings.events_stream
        self._left = MOST_ASKED
        self._given_up: set[str] = set()
        self._connection = connect(settings, "alarmdigest-history-beside")
        self._js = JetStream(self._connection, domain=settings.js_domain)

    def close(self) -> None:
        self._connection.close()

    def scheduled(self, sequence: int) -> str:
        """For when a scheduler has sent this request; empty where none did."""
        found = self._find(self._stream, {"seq": sequence})
        match = _SCHEDULED.search(found.headers) if found is not None else None
        return match[1].decode() if match is not None else ""

    def deliveries(self, digest_ids: list[str]) -> list[Delivery]:
        """Of a digest of these messages, a line for each way; of several parts the last one."""
        found: dict[str, Delivery] = {}
        for digest_id in digest_ids:
            for one in self._deliveries(digest_id):
                found[one.target] = one
        return sorted(found.values(), key=lambda one: (one.at, one.target))

    def _deliveries(self, digest_id: str) -> Iterator[Delivery]:
        which: dict[str, Any] = {"seq": 1, "next_by_subj": f"$KV.{BUCKET}.{key_of_id(digest_id)}.*"}
        while (one := self._find(f"KV_{BUCKET}", which)) is not None:
            which["seq"] = one.seq + 1
            if (delivery := _delivery(one.payload)) is not None:
                yield delivery

    def _find(self, stream: str, which: dict[str, Any]) -> StoredMessage | None:
        """Once something goes wrong, for instance since there is no such bucket, or we may not ask,
        no more is asked of that stream."""
        if stream in self._given_up or self._left <= 0:
            return None
        self._left -= 1
        try:
            return self._js.find_message(stream, which)
        except NatsError:
            self._given_up.add(stream)
            return None


def _delivery(body: bytes) -> Delivery | None:
    """None for what is none: anybody who may can write there."""
    try:
        fields = orjson.loads(body)
        found = Delivery(str(fields["target"]), str(fields["outcome"]), str(fields["at"]))
    except (ValueError, KeyError, TypeError):
        return None
    return found if found.outcome in ("sent", "dead") else None
