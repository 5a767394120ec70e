"""Which server and service a tool is about to test, so that nobody tests another by mistake."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import orjson

from alarmdigest.cli.client import connect
from alarmdigest.cli.subscription import Subscription
from alarmdigest.nats.answers import status_of
from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings

# A service answers at once, and a server without one says so.
ASK_S = 1.0


def print_target(settings: Settings, connection: Connection) -> str | None:
    """One line on stderr; stdout is for the result. The mode of the service, if it is known.

    Raises NatsError.
    """
    version, mode = connection.info.get("version"), _mode_of_service(settings)
    found = f"a service in {mode} mode" if mode else "no service there tells its mode"
    line = f"testing on {connection.url} (nats-server {version}): {found}"
    with suppress(OSError):  # the result does not depend on it
        print(printable(line), file=sys.stderr, flush=True)
    return mode


def _mode_of_service(settings: Settings) -> str | None:
    """What the first service on these subjects says by the NATS service API, if any does.

    On a connection of its own: a server that does not allow the question, or not one more
    connection, spoils no test.
    """
    try:
        connection = connect(settings, "alarmdigest-who-is-there")
        try:
            return _first_mode(connection, settings)
        finally:
            connection.close()
    except ConnectionLost:
        return None


def _first_mode(connection: Connection, settings: Settings) -> str | None:
    inbox = connection.new_inbox()
    answers = Subscription(connection, inbox)
    connection.send(f"PUB $SRV.PING.alarmdigest {inbox} 0\r\n\r\n".encode())
    for headers, body in answers.messages(time.monotonic() + ASK_S):
        if status_of(headers) == 503:  # nobody is there
            return None
        if (mode := _mode_in(body, settings)) is not None:
            return mode
    return None


def _mode_in(answer: bytes, settings: Settings) -> str | None:
    try:
        about = orjson.loads(answer)["metadata"]
        theirs = about["requests"], about["digests"]
        mode = about["mode"]
    except (ValueError, KeyError, TypeError):
        return None  # anybody may answer
    same = theirs == (settings.request_subject, settings.digest_subject)
    return mode if same and mode in ("stream", "core") else None
