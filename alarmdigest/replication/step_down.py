"""Requests of operators to have another replica elected (``alarmdigest step-down``)."""

from __future__ import annotations

import logging
from typing import NamedTuple

import orjson

from alarmdigest.replication.membership import MOST_TEXT
from alarmdigest.runtime.logs import Fields, Untrusted

log = logging.getLogger(__name__)

#: How long a leader that was asked to step down waits for another one.
STEP_DOWN_FOR_S = 3.0


class _Asked(NamedTuple):
    to: str
    reply: bytes
    until: float


class StepDown:
    """One request at a time. Times in seconds of the caller's clock."""

    def __init__(self, name: str) -> None:
        """``name`` is ours."""
        self._name = name
        self._asked: _Asked | None = None

    @property
    def pending(self) -> bool:
        return self._asked is not None

    @property
    def to(self) -> str:
        """Who is to lead; empty: whoever is the readiest."""
        return self._asked.to if self._asked is not None else ""

    def on_request(self, payload: bytes, reply: bytes, now: float) -> None:
        """To the leader: ``{"step_down": NAME}``. What is no such request has no effect."""
        if self._asked is not None:
            return
        try:
            to = orjson.loads(payload)["step_down"]
        except (ValueError, KeyError, TypeError):
            return
        if isinstance(to, str):
            log.info("asked to step down%s", Fields(to=Untrusted(to[:MOST_TEXT])))
            self._asked = _Asked(to, reply, now + STEP_DOWN_FOR_S)

    def answer(self, now: float, *, leads: bool, leader: str) -> tuple[bytes, bytes] | None:
        """Subject and body of the answer, once there is one to give. ``leads``: we still do;
        ``leader`` is who else does, empty if that is not known."""
        asked = self._asked
        if asked is None:
            return None
        if leads and asked.to == self._name:
            told = {"leader": self._name, "problem": ""}
        elif not leads and leader:
            told = {"leader": leader, "problem": ""}
        elif now >= asked.until:
            who = f"the replica {asked.to}" if asked.to else "another replica"
            told = {"leader": "", "problem": f"{who} was not elected in time"}
        else:
            return None  # nobody is elected yet, or its first beat is on its way
        self._asked = None
        return asked.reply, orjson.dumps(told)
