"""A plain NATS client for the tools: one thread, one connection, no reconnecting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from alarmdigest._ext import timestamps
from alarmdigest.cli.subscription import Subscription
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.connection_race import ConnectionRace, Target
from alarmdigest.nats.errors import ConnectFailed
from alarmdigest.nats.url import LOCAL_SERVER
from alarmdigest.settings import Settings

MESSAGE_ID = re.compile(rb"^Nats-Msg-Id: *(\S+)", re.MULTILINE)


def connect(settings: Settings, name: str) -> Connection:
    """Connect to the server that answers first. Raises ConnectionLost, UrlError."""
    failures: list[ConnectFailed] = []

    def make(target: Target) -> Connection:
        return Connection(
            target.url,
            name=name,
            login=settings.login,
            timeout=settings.connect_attempt_timeout.seconds,
            address=target.address,
        )

    urls = settings.server or (LOCAL_SERVER,)
    for url in urls:
        make(Target(url))  # a URL that can never work is a mistake, whatever the others do
    race = ConnectionRace(urls, make, lambda _target, error: failures.append(error))
    won = race.run(lambda: True)
    if won is None:
        raise failures[-1]
    return won[1]


class Client:
    """Subscribes to digests, publishes events and requests. Raises ConnectionLost (NatsError).

    ``repeated`` counts digests that came once more with an id that had come already: as a receiver
    should, it drops them. A leader of a group, or a restarted service, may send some again.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        """Connects to the first of the servers that answers."""
        self.connection = connect(settings, name)
        self._subscription = Subscription(self.connection, settings.digest_subject)
        self.repeated = 0
        self._ids: set[bytes] = set()

    def flush(self) -> None:
        """Wait until the server has taken everything sent so far."""
        self._subscription.flush()

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish ``(subject, body)`` pairs in one write."""
        self.connection.send(
            b"".join(
                b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(body), body)
                for subject, body in messages
            )
        )

    def digests(self, until: float) -> Iterator[dict[str, Any]]:
        """The digests that arrive until the given ``time.monotonic()``, as they come."""
        for headers, payload in self._subscription.messages(until):
            if (found := MESSAGE_ID.search(headers)) is not None:
                if found[1] in self._ids:
                    self.repeated += 1
                    continue
                self._ids.add(found[1])
            if (digest := read_digest(payload)) is not None:
                yield digest


def read_digest(payload: bytes) -> dict[str, Any] | None:
    """None for what is no digest: anybody who may can write anything on the subject."""
    try:
        found = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("UserID"), str) else None


def event_body(user: str, alarm: str, status: str, changed_at_ns: int) -> bytes:
    """An AlarmStatusChanged as JSON."""
    return orjson.dumps(
        {
            "AlarmID": alarm,
            "UserID": user,
            "Status": status,
            "ChangedAt": timestamps.to_text(changed_at_ns),
        }
    )


def request_body(user: str) -> bytes:
    """A SendAlarmDigest as JSON."""
    return orjson.dumps({"UserID": user})


def expected_digest(user: str, alarm: str, status: str, changed_at_ns: int) -> dict[str, Any]:
    """The digest of one alarm."""
    return {
        "UserID": user,
        "ActiveAlarms": [
            {
                "AlarmID": alarm,
                "Status": status,
                "LatestChangedAt": timestamps.to_text(changed_at_ns),
            }
        ],
    }
