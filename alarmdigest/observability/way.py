"""The processes on the way of an alarm from a monitor to a person, besides the service: which of
them run, and a few counters of each. They are asked by the NATS service API, on its connection.

Anybody may answer: what is remembered of an answer is an id and a few numbers, of so many answers.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import orjson

from alarmdigest.runtime.logs import LimitedLog
from alarmdigest.settings import Settings
from alarmdigest.wire.service_api import STAGES, Stage

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0
KNOWN_FOR_S = 20.0
# Of each stage, and of all answers to one asking.
MOST_PROCESSES = 100
MOST_ANSWERS = 1000
MOST_ANSWER_BYTES = 16 * 1024
MOST_ID_CHARS = 64
# What JavaScript counts to; sums of these are within what JSON holds.
MOST_COUNT = 2**53 - 1

_BY_NAME = {stage.name: stage for stage in STAGES.values()}


class _Heard(NamedTuple):
    at: float
    counters: dict[str, int]


class Way:
    """Asked and told by one thread, read by others.

    An answer counts if it is of a process on our subjects: others may be on the way of another
    service.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._ours = {key: str(getattr(settings, one.setting)) for key, one in STAGES.items()}
        self._clock = clock
        self._heard: dict[str, dict[str, _Heard]] = {key: {} for key in STAGES}
        self._refused: frozenset[str] = frozenset()
        self._asked_at = -math.inf
        self._ask_at = 0.0
        self._answers_left = 0
        self._quiet = LimitedLog(log, logging.INFO, interval_s=math.inf)

    def begin(self) -> None:
        """There is a new connection: what the last one was refused may be allowed now."""
        self._refused = frozenset()
        self._ask_at = 0.0

    def questions(self, inbox: bytes) -> bytes:
        """What to send now, perhaps nothing; answers are to come to ``inbox``."""
        now = self._clock()
        if now < self._ask_at:
            return b""
        self._asked_at, self._ask_at = now, now + ASK_EVERY_S
        self._answers_left = MOST_ANSWERS
        return b"".join(
            b"PUB %b %b 0\r\n\r\n" % (_subject(stage).encode(), inbox)
            for key, stage in STAGES.items()
            if key not in self._refused
        )

    def on_refused(self, refused: str) -> bool:
        """Whether the server's word is about one of the questions: it is not asked again."""
        for key, stage in STAGES.items():
            if f'"{_subject(stage)}"' in refused:
                self._refused |= {key}
                self._quiet("the server does not let us ask who else is on the way of alarms")
                return True
        return False

    def on_answer(self, payload: bytes) -> None:
        """What may be an answer."""
        if not self._answers_left or not 0 < len(payload) <= MOST_ANSWER_BYTES:
            return
        self._answers_left -= 1
        try:
            answer = orjson.loads(payload)
            stage = _BY_NAME[answer["name"]]
            its_id, about = str(answer["id"])[:MOST_ID_CHARS], answer["metadata"][stage.about]
            data = answer["endpoints"][0]["data"]
            counters = {name: _count(data.get(name, 0)) for name in stage.counters}
        except (ValueError, LookupError, TypeError, AttributeError):
            return
        if about != self._ours[stage.key]:
            return
        now = self._clock()
        heard = self._lately(stage.key, now)
        if its_id in heard or len(heard) < MOST_PROCESSES:
            heard[its_id] = _Heard(now, counters)
            self._heard = {**self._heard, stage.key: heard}

    def look(self) -> dict[str, dict[str, int | None]]:
        """By stage: ``processes``, which is None where that is not known, and the sums of their
        counters."""
        now = self._clock()
        return {key: self._stage(stage, now) for key, stage in STAGES.items()}

    def _stage(self, stage: Stage, now: float) -> dict[str, int | None]:
        heard = self._lately(stage.key, now).values()
        asked = now - self._asked_at < KNOWN_FOR_S and stage.key not in self._refused
        return {
            "processes": len(heard) if asked else None,
            **{name: sum(one.counters[name] for one in heard) for name in stage.counters},
        }

    def _lately(self, key: str, now: float) -> dict[str, _Heard]:
        return {who: one for who, one in self._heard[key].items() if now - one.at < KNOWN_FOR_S}


def _subject(stage: Stage) -> str:
    return f"$SRV.STATS.{stage.name}"


def _count(value: object) -> int:
    """Raises TypeError for what is no count."""
    if not isinstance(value, int) or not 0 <= value <= MOST_COUNT:
        raise TypeError
    return int(value)
