"""The three streams: which there must be, and whether those that are there will do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import ConnectionLost, JetStreamError, StreamConflict, StreamMissing
from alarmdigest.nats.jetstream import JetStream

SECOND_NS = 10**9
WEEK_NS = 7 * 86_400 * SECOND_NS
UNLIMITED = -1

# err_code of answers: a stream of this name, or one with some of its subjects, is there.
NAME_IN_USE = 10058
SUBJECTS_OVERLAP = 10065

# How long a stream that was there must be missing before we make it again.
MAKE_AGAIN_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """A stream as we would create it. Times in ns, sizes in bytes; -1 = no limit."""

    name: str
    subjects: tuple[str, ...]
    max_age_ns: int = WEEK_NS
    max_bytes: int = UNLIMITED
    duplicate_window_ns: int = 120 * SECOND_NS
    replicas: int = 1

    def config(self) -> dict[str, Any]:
        # 0 = for ever. JetStream wants the window to lie within the age.
        window = min(self.duplicate_window_ns, self.max_age_ns or self.duplicate_window_ns)
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_age": self.max_age_ns,
            "max_bytes": self.max_bytes,
            "max_msgs": UNLIMITED,
            "duplicate_window": window,
            "num_replicas": self.replicas,
        }


class Plans(NamedTuple):
    alarms: StreamPlan
    digests: StreamPlan
    rejected: StreamPlan


def plans(
    *,
    event_subject: str = "AlarmStatusChanged",
    request_subject: str = "SendAlarmDigest",
    digest_subject: str = "AlarmDigest",
    rejected_subject: str = "AlarmRejected",
    alarms_stream: str = "ALARMS",
    digests_stream: str = "ALARM_DIGESTS",
    rejected_stream: str = "ALARM_REJECTED",
    max_age_ns: int = WEEK_NS,
    max_bytes: int = UNLIMITED,
    replicas: int = 1,
) -> Plans:
    """The three streams. ``max_age_ns`` holds for all of them, ``max_bytes`` for the alarms."""
    inputs = [event_subject, f"{event_subject}.>", request_subject, f"{request_subject}.>"]
    # One subject below the other: JetStream refuses a stream whose own subjects overlap.
    inputs = [
        one for one in inputs if not any(covers(other, one) for other in inputs if other != one)
    ]
    return Plans(
        StreamPlan(alarms_stream, tuple(inputs), max_age_ns, max_bytes, replicas=replicas),
        StreamPlan(digests_stream, (digest_subject,), max_age_ns, replicas=replicas),
        # What nobody may ever look at must not fill the disk.
        StreamPlan(rejected_stream, (rejected_subject,), max_age_ns, 2**30, replicas=replicas),
    )


def covers(wide: str, narrow: str) -> bool:
    """Whether ``wide`` matches every subject that ``narrow`` matches; both may have wildcards."""
    ours, theirs = wide.split("."), narrow.split(".")
    for i, token in enumerate(ours):
        if i == len(theirs):
            return False
        if token == ">":
            return True
        if theirs[i] == ">" or (token != "*" and token != theirs[i]):
            return False
    return len(ours) == len(theirs)


def ensure_stream(js: JetStream, plan: StreamPlan, *, create: bool) -> StreamInfo:
    """The stream of this plan. One that is there is used as it is, whatever its limits.

    Raises StreamConflict if it, or one with other names, stands in the way, StreamMissing if it
    is absent and ``create`` is false.
    """
    for _ in range(3):
        info = js.stream_info(plan.name)
        if info is not None:
            _check(js, plan, info)
            return info
        if holders := _holders(js, plan.name, plan.subjects):
            raise StreamConflict(_remedy(plan.name, holders))
        if not create:
            raise StreamMissing(
                f"there is no stream {plan.name}, and we may not create it. Create one that "
                f"captures {', '.join(plan.subjects)}, or let us do it"
            )
        try:
            return js.create_stream(plan.config())
        except JetStreamError as error:
            # Somebody else was faster: look again at what there is now.
            if error.err_code not in (NAME_IN_USE, SUBJECTS_OVERLAP):
                raise
    raise ConnectionLost(f"stream {plan.name} is made and deleted all the time")


class StreamKeeper:
    """A stream that was there, and is made again when it is gone, but not at once.

    Whoever deletes it may be about to make it anew, and with other limits than ours. And a
    nats-server that is still busy with a deletion may put messages of the old stream into the new
    one (seen in 2.15.1).
    """

    def __init__(self, plan: StreamPlan, *, create: bool) -> None:
        self.plan = plan
        self._create = create
        self._missing_since: float | None = None

    def ensure(self, js: JetStream) -> StreamInfo:
        """Raises as ``ensure_stream`` does; StreamMissing also while we wait."""
        now = time.monotonic()
        if self._create and js.stream_info(self.plan.name) is None:
            self._missing_since = self._missing_since or now
            if now - self._missing_since < MAKE_AGAIN_AFTER_S:
                raise StreamMissing(f"stream {self.plan.name} was deleted; we make it again soon")
        info = ensure_stream(js, self.plan, create=self._create)
        self._missing_since = None
        return info


def _check(js: JetStream, plan: StreamPlan, info: StreamInfo) -> None:
    """Raises StreamConflict unless the stream keeps, and confirms, all that the plan is about."""
    missing = [
        subject
        for subject in plan.subjects
        if not any(covers(has, subject) for has in info.subjects)
    ]
    if missing:
        if holders := _holders(js, plan.name, missing):
            raise StreamConflict(_remedy(plan.name, holders))
        # What it has within ours would overlap with ours.
        others = [s for s in info.subjects if not any(covers(ours, s) for ours in plan.subjects)]
        wanted = ",".join([*others, *plan.subjects])
        raise StreamConflict(
            f"stream {plan.name} does not capture {', '.join(missing)}: add what is missing "
            f"(nats stream edit {plan.name} --subjects '{wanted}'), or give us another stream"
        )
    retention = info.config.get("retention", "limits")
    if retention != "limits":
        raise StreamConflict(
            f"stream {plan.name} has retention {retention}, which deletes messages that are needed "
            "again after a crash: it must be limits. Make it anew, or give us another stream"
        )
    if info.config.get("no_ack"):
        raise StreamConflict(
            f"stream {plan.name} has no_ack set, so nobody learns what it has stored. Make it "
            "anew without, or give us another stream"
        )


def _holders(js: JetStream, own: str, subjects: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Other streams that capture some of these subjects, each with the first of them."""
    holders: dict[str, str] = {}
    for subject in subjects:
        for name in js.stream_names_for(subject):
            if name != own:
                holders.setdefault(name, subject)
    return holders


def _remedy(own: str, holders: dict[str, str]) -> str:
    held = ", ".join(f"stream {name} captures {subject}" for name, subject in holders.items())
    return (
        f"{held}, and stream {own} needs that: a subject can be in one stream only. Take it out "
        f"there (nats stream edit {next(iter(holders))} --subjects …), delete that stream, or, if "
        "it holds everything that is needed, give us its name"
    )
