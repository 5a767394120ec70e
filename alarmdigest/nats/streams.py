"""The three streams on a server: whether those that are there will do, and making the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import ConnectionLost, JetStreamError, StreamConflict, StreamMissing
from alarmdigest.nats.jetstream import NAME_IN_USE, JetStream
from alarmdigest.nats.permanent_errors import cannot_make
from alarmdigest.nats.stream_configs import Role, StreamConfig, age_text
from alarmdigest.nats.stream_fields import unknown_fields
from alarmdigest.nats.stream_findings import Finding
from alarmdigest.nats.stream_questions import Seen
from alarmdigest.nats.stream_rules import check
from alarmdigest.nats.subjects import covers

log = logging.getLogger(__name__)

# err_code of answers: a stream with some of its subjects is there.
SUBJECTS_OVERLAP = 10065

# How long a stream that was there must be missing before we make it again.
MAKE_AGAIN_AFTER_S = 1.0

# Fields that no rule knows, each told once.
_told: set[str] = set()


@dataclass(slots=True)
class Examined:
    """What a look at the streams has found: their state, those that we are to make, and sentences
    with a remedy each."""

    infos: dict[Role, StreamInfo] = field(default_factory=dict)
    missing: list[StreamConfig] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def examine(
    js: JetStream, configs: Sequence[StreamConfig], *, create: bool, reading: bool = False
) -> Examined:
    """Look at all three and change nothing. A missing one is a refusal unless we may make it.

    ``reading``: whether one of the consumers of ALARMS is ours.
    """
    found = Examined()
    for config in configs:
        info = js.stream_info(config.name)
        if info is None:
            if trouble := _absence(js, config, create=create):
                found.problems.append(str(trouble))
            else:
                found.missing.append(config)
            continue
        found.infos[config.role] = info
        ours = int(reading and config.role == "alarms")
        for one in findings(js, config, info, ours=ours):
            kept = found.problems if one.verdict == "refuses" else found.warnings
            kept.append(one.text)
    # What somebody else will make may have any age.
    there = configs if create else [config for config in configs if config.role in found.infos]
    found.warnings += _ages(there, found.infos)
    return found


def findings(
    js: JetStream, config: StreamConfig, info: StreamInfo, *, ours: int = 0
) -> list[Finding]:
    """What is wrong or unwise about a stream that is there, the problems first.

    ``ours`` is how many of its consumers we have.
    """
    _tell_unknown_fields(info)
    found = check(Seen(info.config, config, info.consumers - ours))
    # One that can never hold them need not be told to.
    if any(one.field == "mirror" for one in found):
        return found
    if text := _missing_subjects(js, config, info):
        found.insert(0, Finding("refuses", "subjects", config.for_its_domain(text)))
    elif text := _missing_optional(js, config, info):
        found.append(Finding("warns", "subjects", config.for_its_domain(text)))
    return found


def ensure_stream(js: JetStream, config: StreamConfig, *, create: bool) -> StreamInfo:
    """The stream as configured. One that is there is used as it is, unless a rule refuses it.

    Raises StreamConflict if it, or one with other names, stands in the way, or if the server will
    never make it; StreamMissing if it is absent and ``create`` is false.
    """
    info = _present(js, config, create=create)
    problems = [one.text for one in findings(js, config, info) if one.verdict == "refuses"]
    if problems:
        raise StreamConflict("; ".join(problems))
    return info


def _present(js: JetStream, config: StreamConfig, *, create: bool) -> StreamInfo:
    """The stream as it is, or as we made it. Raises as ``ensure_stream`` does."""
    for _ in range(3):
        if (info := js.stream_info(config.name)) is not None:
            return info
        if trouble := _absence(js, config, create=create):
            raise trouble
        try:
            return js.create_stream(_without_held(js, config).api_config())
        except JetStreamError as error:
            # Somebody else was faster: look again at what there is now.
            if error.err_code in (NAME_IN_USE, SUBJECTS_OVERLAP):
                continue
            if lasting := cannot_make(config, error):
                raise StreamConflict(lasting) from error
            raise
    raise ConnectionLost(f"stream {config.name} is made and deleted all the time")


class StreamKeeper:
    """A stream that was there, and is made again when it is gone, but not at once.

    Whoever deletes it may be about to make it anew, and with other limits than ours. And a
    nats-server that is still busy with a deletion may put messages of the old stream into the new
    one (seen in 2.15.1).
    """

    def __init__(self, config: StreamConfig, *, create: bool) -> None:
        self.config = config
        self._create = create
        self._missing_since: float | None = None

    def ensure(self, js: JetStream) -> StreamInfo:
        """Raises as ``ensure_stream`` does; StreamMissing also while we wait.

        Digests stay with us until their stream is mended. The other two are used as they are, if
        they have our subjects: what ALARMS holds is not read any better later, and rejected
        messages must not hold up digests. The stream watcher says what is wrong with them.
        """
        info = js.stream_info(self.config.name)
        if info is None:
            now = time.monotonic()
            self._missing_since = self._missing_since or now
            if self._create and now - self._missing_since < MAKE_AGAIN_AFTER_S:
                raise StreamMissing(f"stream {self.config.name} was deleted; we make it again soon")
            info = _present(js, self.config, create=self._create)
        problems = [
            one.text
            for one in findings(js, self.config, info)
            if one.verdict == "refuses"
            and (self.config.role == "digests" or one.field == "subjects")
        ]
        if problems:
            raise StreamConflict("; ".join(problems))
        self._missing_since = None
        return info


def _absence(
    js: JetStream, config: StreamConfig, *, create: bool
) -> StreamConflict | StreamMissing | None:
    """Why a stream that is not there will not be; None if we can try to make it."""
    required = [one for one in config.subjects if one not in config.optional]
    if holders := _holders(js, config.name, required):
        return StreamConflict(config.for_its_domain(_remedy(config, holders)))
    if not create:
        return StreamMissing(
            f"there is no stream {config.name}, and we may not create it (--no-create-streams). "
            f"Leave that option out, or create one: {config.add_command}"
        )
    return None


def _without_held(js: JetStream, config: StreamConfig) -> StreamConfig:
    """Without those optional subjects that another stream captures, such as another service's."""
    holders = _holders(js, config.name, config.optional)
    if not holders:
        return config
    log.warning("stream %s is made without it: %s", config.name, _held_elsewhere(config, holders))
    wanted = tuple(one for one in config.subjects if one not in config.optional)
    return replace(config, subjects=wanted, optional=())


def _missing_subjects(js: JetStream, config: StreamConfig, info: StreamInfo) -> str:
    required = [one for one in config.subjects if one not in config.optional]
    missing = _not_captured(required, info)
    if not missing:
        return ""
    if holders := _holders(js, config.name, missing):
        return _remedy(config, holders)
    return (
        f"stream {config.name} does not capture {', '.join(missing)}: add what is missing "
        f"({edit_command(config.subjects, info)}), or give us another stream"
    )


def _missing_optional(js: JetStream, config: StreamConfig, info: StreamInfo) -> str:
    """An earlier version has made the stream, or another stream has the subject."""
    missing = _not_captured(config.optional, info)
    if not missing:
        return ""
    if holders := _holders(js, config.name, missing):
        return _held_elsewhere(config, holders)
    return (
        f"stream {config.name} does not capture {', '.join(missing)}, so what a program publishes "
        f"there to have a user forgotten is lost: {edit_command(missing, info)}"
    )


def _not_captured(subjects: Sequence[str], info: StreamInfo) -> list[str]:
    return [one for one in subjects if not any(covers(has, one) for has in info.subjects)]


def subjects_with(wanted: Sequence[str], info: StreamInfo) -> list[str]:
    """What the stream captures with these subjects added."""
    # What it has within them would overlap with them.
    others = [one for one in info.subjects if not any(covers(new, one) for new in wanted)]
    return [*others, *wanted]


def edit_command(wanted: Sequence[str], info: StreamInfo) -> str:
    """How to have the stream capture these, too, with the nats tool."""
    return f"nats stream edit {info.name} --subjects '{','.join(subjects_with(wanted, info))}'"


def _held_elsewhere(config: StreamConfig, holders: dict[str, str]) -> str:
    held = ", ".join(f"stream {name} captures {subject}" for name, subject in holders.items())
    return (
        f"{held}, and a subject can be in one stream only: no user of the service of stream "
        f"{config.name} can be forgotten; with --forget-subject it has a subject of its own"
    )


def _holders(js: JetStream, own: str, subjects: Sequence[str]) -> dict[str, str]:
    """Other streams that capture some of these subjects, each with the first of them."""
    holders: dict[str, str] = {}
    for subject in subjects:
        for name in js.stream_names_for(subject):
            if name != own:
                holders.setdefault(name, subject)
    return holders


def _remedy(config: StreamConfig, holders: dict[str, str]) -> str:
    held = ", ".join(f"stream {name} captures {subject}" for name, subject in holders.items())
    first = next(iter(holders))
    return (
        f"{held}, and stream {config.name} needs that: a subject can be in one stream only. Take "
        f"it out there (nats stream edit {first} --subjects …), delete that stream (nats stream rm "
        f"{first}), or, if it holds everything that is needed, give us its name ({config.option} "
        f"{first})"
    )


def _ages(configs: Sequence[StreamConfig], infos: Mapping[Role, StreamInfo]) -> list[str]:
    """Requests whose digests are gone already are answered again after a loss of the store: what
    their stream holds is how a replay knows that it has published them."""
    ages = {
        config.role: int(infos[config.role].config.get("max_age") or 0)
        if config.role in infos
        else config.max_age_ns
        for config in configs
    }
    alarms, digests = ages.get("alarms", 0), ages.get("digests", 0)
    if not digests or 0 < alarms <= digests:
        return []
    config = next(config for config in configs if config.role == "digests")
    if config.role in infos:
        remedy = config.for_its_domain(
            f"nats stream edit {config.name} --max-age={age_text(alarms)}"
        )
    else:
        remedy = f"{config.limit_options}-age {age_text(alarms) if alarms else 'unlimited'}"
    return [
        f"stream {config.name} has max_age {age_text(digests)}, less than the events stream: "
        f"should the store be lost, older requests may be answered again: {remedy}"
    ]


def _tell_unknown_fields(info: StreamInfo) -> None:
    for name in unknown_fields(info.config):
        if name not in _told:
            _told.add(name)
            log.info("stream %s has %s, which this version knows nothing of", info.name, name)
