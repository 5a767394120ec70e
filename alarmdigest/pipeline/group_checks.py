"""Before a replica starts: does what it would do agree with what its group does already?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from alarmdigest.nats.answers import StreamInfo, in_short
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.pipeline.sources.start_position import where_to_start
from alarmdigest.replication.content import content_text
from alarmdigest.replication.election import Election, find_last_election, read_election
from alarmdigest.replication.group_start import GroupStart
from alarmdigest.replication.kept_beats import KeptBeat, groups_with_names, kept_beats
from alarmdigest.replication.subjects import LEADERS
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.store.base import Checkpoint
from alarmdigest.wire.messages import ANSWERED_REQUEST

log = logging.getLogger(__name__)

#: Which reading of input messages the replicas have in common. Count it up when a message is read
#: as another one than before.
READING_RULES = 2


def content_of(settings: Settings, content_settings: Mapping[str, int]) -> dict[str, Any]:
    """What decides what digests hold, and must be the same at all replicas."""
    names = (
        *("event_subject", "request_subject", "forget_subject"),
        *("digest_subject", "rejected_subject"),
        *("events_stream", "digests_stream", "rejected_stream", "js_domain"),
    )
    return {
        **content_settings,
        **{name: getattr(settings, name) for name in names},
        "reading_rules": READING_RULES,
    }


def check_group(
    js: JetStream,
    settings: Settings,
    content: Mapping[str, Any],
    last: Checkpoint | None,
    events: StreamInfo,
    digests: StreamInfo,
) -> GroupStart:
    """Raises SettingsError for what keeps us from being a replica."""
    election, differing = check_settings_of_group(js, settings, content)
    if last is not None:
        _check_folder(js, settings, last, events)
    since_ns = _settings_since_ns(js, settings, election, differing, last)
    if last is not None:
        return GroupStart(last.replica.start if last.replica is not None else 0, since_ns)
    return GroupStart(_first_of_empty(settings, election, events, digests))


def _first_of_empty(
    settings: Settings, election: Election, events: StreamInfo, digests: StreamInfo
) -> int:
    """The sequence of the message that a replica without a state begins with. Raises SettingsError
    where it would not come to the state that the group has."""
    group = settings.group
    if settings.start != "first":
        raise SettingsError(
            f"--start {settings.start} with --group: all replicas must begin at the same message; "
            "leave it out (the oldest message of the stream)"
        )
    first = max(1, events.first_seq)
    if not election.sequence:
        if digests.messages and first > int(events.config.get("first_seq") or 1):
            raise SettingsError(
                f"{settings.place_of_state} is empty, {digests.name} holds digests, and the "
                f"oldest messages of {events.name} are deleted, from which some of them may have "
                "been made: start with the state of the instance that made them (its folder, "
                "alarmdigest backup of it, or --snapshots), or, for a group that is to know "
                f"nothing of it, nats stream purge {digests.name}"
            )
        return first
    start = election.fields.get("start")
    if start != first:
        held = f"from message {first} on" if events.messages else "nothing"
        raise SettingsError(
            f"{settings.place_of_state} is empty, and the stream {events.name} does not hold "
            f"everything that the group {group} has read (it began with message {in_short(start)}, "
            f"the stream holds {held}), and there is no snapshot to start from: copy another "
            "replica's state (alarmdigest backup there), or choose another --group for one that "
            "starts anew"
        )
    return first


def _check_folder(js: JetStream, settings: Settings, last: Checkpoint, events: StreamInfo) -> None:
    """Raises SettingsError for a state that is not this group's."""
    replica, group = last.replica, settings.group
    what = settings.place_of_state
    remedy = "choose another --data-dir: an empty one is filled from the group's newest snapshot"
    if settings.store == "cassandra":
        remedy = "choose the --cassandra-keyspace of this group, or an empty one for a new group"
    if replica is not None and replica.group not in ("", group):
        raise SettingsError(f"{what} holds the state of the group {replica.group}: {remedy}")
    if replica is not None:
        return
    if last.position is None:
        if last.blocks:
            raise SettingsError(
                f"{what} holds a state of core mode, which no other replica can come to: {remedy}"
            )
        return
    # Of a service that was alone. Its state is the group's only if it has read the same messages.
    found = where_to_start(js, events, last.position, newest_ns=last.arrival_ns)
    if found.kind != "continues":
        raise SettingsError(f"{what} holds another stream's state ({found.sentence}): {remedy}")


def check_settings_of_group(
    js: JetStream, settings: Settings, content: Mapping[str, Any]
) -> tuple[Election, str]:
    """The group's last election, and in which settings it differs from ours; empty if in none.

    Raises SettingsError where it goes by other settings, and some replica runs with them.
    """
    election = find_last_election(js, settings.digests_stream, settings.group)
    differing = _differing(content, election)
    running = [one.beat.name for one in _beats(js, settings.group) if one.runs] if differing else []
    if running:
        raise SettingsError(
            f"the group {settings.group} goes by other settings, told by its leader "
            f"{election.name}: {differing}; all replicas need the same, and {', '.join(running)} "
            "ran with them a moment ago. To change one, stop all replicas and start them with it"
        )
    return election, differing


def _settings_since_ns(
    js: JetStream, settings: Settings, election: Election, differing: str, last: Checkpoint | None
) -> int:
    """As ``GroupStart`` has it. Where the group has stopped, the first replica that starts may
    bring other settings, from its checkpoint on, if that is behind all that was published."""
    since_ns = election.fields.get("settings_since_ns")
    since_ns = since_ns if isinstance(since_ns, int) else 0
    empty_it = f"empty the folder {settings.data_dir}, to start from a snapshot of another replica"
    if not differing:
        if last is not None and last.arrival_ns < since_ns:
            raise SettingsError(
                f"the group {settings.group} has changed its settings since this replica has "
                f"stopped: {empty_it}"
            )
        if last is None and since_ns:
            raise SettingsError(
                f"the group {settings.group} has changed its settings, and there is no snapshot of "
                "it yet that was made with them: start again in a minute"
            )
        return since_ns
    beats = _beats(js, settings.group)
    ahead = max(beats, key=lambda one: one.beat.word.through, default=None)
    spoken_ns = ahead.beat.word.through if ahead is not None else 0
    published = _last_published(js, settings)
    position = last.position if last is not None else None
    is_replica = last is not None and last.replica is not None
    reached = last.arrival_ns if last is not None and is_replica else 0
    if position is None or reached < spoken_ns or position.sequence < published:
        first = f"{ahead.beat.name}, say" if ahead is not None else "the one that stopped last"
        raise SettingsError(
            f"the group {settings.group} goes by other settings, told by its leader "
            f"{election.name}: {differing}. They can be changed by a replica that has read all "
            f"that was published and was stopped in order ({first}), and this one has not: start "
            f"that one first, and {empty_it}"
        )
    log.warning(
        "the group goes by other settings from now on, behind input message %d: %s",
        position.sequence,
        differing,
    )
    return reached


def _beats(js: JetStream, group: str) -> list[KeptBeat]:
    return kept_beats(js, group, groups_with_names(js, group).get(group, []))


def _last_published(js: JetStream, settings: Settings) -> int:
    """The sequence of the request that the last digest answers; 0 if there is none."""
    last = js.find_message(settings.digests_stream, {"last_by_subj": settings.digest_subject})
    found = ANSWERED_REQUEST.search(last.headers) if last is not None else None
    return int(found[1]) if found is not None else 0


def _differing(content: Mapping[str, Any], election: Election) -> str:
    theirs = election.fields.get("content")
    if not isinstance(theirs, dict):
        return ""
    return ", ".join(
        f"{name} ({content_text(name, theirs.get(name))} there, "
        f"{content_text(name, content[name])} here)"
        for name in sorted(content)
        if theirs.get(name) != content[name]
    )


def check_other_groups(js: JetStream, settings: Settings) -> None:
    """Raises SettingsError where the digest stream belongs to another group."""
    pattern = f"{LEADERS}.>"
    if not any(name == settings.digests_stream for name in js.stream_names_for(pattern)):
        return
    election = read_election(js.find_message(settings.digests_stream, {"last_by_subj": pattern}))
    theirs = election.fields.get("group")
    if not election.sequence or theirs == settings.group:
        return
    raise SettingsError(
        f"the stream {settings.digests_stream} belongs to the group {in_short(theirs)}: say "
        f"--group {in_short(theirs)}, or give the group {settings.group} streams of its own "
        "(--digests-stream and --rejected-stream, and --digest-subject and --rejected-subject for "
        "what they capture)"
    )


def check_no_group(js: JetStream, settings: Settings) -> None:
    """Raises SettingsError where the digest stream belongs to a group, and we are in none."""
    pattern = f"{LEADERS}.>"
    if not any(name == settings.digests_stream for name in js.stream_names_for(pattern)):
        return
    if js.find_message(settings.digests_stream, {"last_by_subj": pattern}) is None:
        return
    raise SettingsError(
        f"a group publishes to the stream {settings.digests_stream}, and without --group we would "
        "publish each digest once more: say --group, or, when there is no group any more, take its "
        f"messages out (nats stream purge {settings.digests_stream} --subject '{pattern}')"
    )
