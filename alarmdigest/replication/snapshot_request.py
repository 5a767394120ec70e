"""A replica with an empty folder asks its group for a snapshot, since none is there that suits."""

from __future__ import annotations

import logging
import time

import orjson

from alarmdigest.nats.connection import Connection
from alarmdigest.nats.errors import ConnectionLost, NatsError
from alarmdigest.nats.requests import Requests
from alarmdigest.replication.subjects import control_subject

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 1.0
# Whose business it was may have just died, and is taken for alive for two seconds.
ASKS = 5
_WHAT = "make_snapshot"


def asks_for_snapshot(payload: bytes) -> bool:
    """Whether a request to the group is one for a snapshot."""
    try:
        return orjson.loads(payload)[_WHAT] is True
    except (ValueError, KeyError, TypeError):
        return False


def ask_for_snapshot(connection: Connection, group: str) -> bool:
    """Whether somebody has answered that one will be made. Raises ConnectionLost."""
    requests = Requests(connection, timeout_s=ANSWER_TIMEOUT_S)
    try:
        for _ in range(ASKS):
            asked_at = time.monotonic()
            try:
                requests.ask_once(control_subject(group), orjson.dumps({_WHAT: True}))
            except ConnectionLost:
                raise
            except NatsError as error:
                log.debug("nobody makes a snapshot for us: %s", error)
                if time.monotonic() - asked_at < ANSWER_TIMEOUT_S / 2:
                    return False  # nobody is there, or we may not ask
            else:
                return True
        return False
    finally:
        requests.drop()
