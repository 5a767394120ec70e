"""The newest beat of each replica, as the group's stream keeps it for a day."""

from __future__ import annotations

import time
from typing import NamedTuple

import orjson

from alarmdigest.nats.errors import JetStreamError
from alarmdigest.nats.jetstream import NO_STREAM, JetStream
from alarmdigest.replication.membership import Beat
from alarmdigest.replication.subjects import BEATS, GROUP_STREAM

#: A replica tells of itself twice a second; one that was not heard for so long is gone, or hangs.
SILENT_AFTER_S = 5.0


class KeptBeat(NamedTuple):
    """``age_s`` in seconds, by our clock and the server's."""

    beat: Beat
    age_s: float

    @property
    def stopped(self) -> bool:
        """Whether it has ended in order."""
        return self.beat.about.get("stopped") is True

    @property
    def runs(self) -> bool:
        return self.age_s < SILENT_AFTER_S and not self.stopped


def groups_with_names(js: JetStream, group: str) -> dict[str, list[str]]:
    """The names of the replicas by group; of all groups if ``group`` is empty. Raises NatsError."""
    pattern = f"{BEATS}.{group or '*'}.*"
    try:
        info = js.request(f"STREAM.INFO.{GROUP_STREAM}", {"subjects_filter": pattern})
    except JetStreamError as error:
        if error.err_code != NO_STREAM:
            raise
        info = {}
    found: dict[str, list[str]] = {}
    for subject in sorted((info.get("state") or {}).get("subjects") or ()):
        _, whose, name = subject.split(".")
        found.setdefault(whose, []).append(name)
    return found


def kept_beats(js: JetStream, group: str, names: list[str]) -> list[KeptBeat]:
    """Those that can be read. Raises NatsError."""
    found = []
    for name in names:
        stored = js.find_message(GROUP_STREAM, {"last_by_subj": f"{BEATS}.{group}.{name}"})
        if stored is None:
            continue
        try:
            beat = Beat.from_json(orjson.loads(stored.payload))
        except ValueError:
            continue
        found.append(KeptBeat(beat, max(0.0, time.time() - stored.timestamp_ns / 1e9)))
    return found
