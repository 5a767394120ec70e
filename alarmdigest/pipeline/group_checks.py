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
from alarmdigest.replication.subjects import LEADERS, leader_subject
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.store.base import Checkpoint

log = logging.getLogger(__name__)

#: Which reading of input messages the replicas have in common. Count it up when a message is read
#: as another one than before.
READING_RULES = 1


def content_of(settings: Settings, content_settings: Mapping[str, int]) -> dict[str, Any]:
    """What decides what digests hold, and must be the same at all replicas."""
    names = (
        *("event_subject", "request_subject", "digest_subject", "rejected_subject"),
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
) -> int:
    """The sequence of the first input message that the group's state has known, 0 if nobody knows.

    Raises SettingsError for what keeps us from being a replica.
    """
    group = settings.group
    election = check_settings_of_group(js, settings, content)
    if last is not None:
        _check_folder(js, settings, last, events)
        return last.replica.start if last.replica is not None else 0
    if settings.start != "first":
        raise SettingsError(
            f"--start {settings.start} with --group: all replicas must begin at the same message; "
            "leave it out (the oldest message of the stream)"
        )
    first = max(1, events.first_seq)
    if not election.sequence:
        if digests.messages and first > int(events.config.get("first_seq") or 1):
            raise SettingsError(
                f"the folder {settings.data_dir} is empty, {digests.name} holds digests, and the "
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
            f"the folder {settings.data_dir} is empty, and the stream {events.name} does not hold "
            f"everything that the group {group} has read (it began with message {in_short(start)}, "
            f"the stream holds {held}), and there is no snapshot to start from: copy another "
            "replica's state (alarmdigest backup there), or choose another --group for one that "
            "starts anew"
        )
    return first


def _check_folder(js: JetStream, settings: Settings, last: Checkpoint, events: StreamInfo) -> None:
    """Raises SettingsError for a state that is not this group's."""
    replica, group = last.replica, settings.group
    what = f"the folder {settings.data_dir}"
    remedy = "choose another --data-dir: an empty one is filled from the group's newest snapshot"
    if replica is not None and replica.group not in ("", group):
        raise SettingsError(f"{what} holds the state of the group {replica.group}: {remedy}")
    if replica is not None or last.position is None:
        return
    # Of a service that was alone. Its state is the group's only if it has read the same messages.
    found = where_to_start(js, events, last.position, newest_ns=last.arrival_ns)
    if found.kind != "continues":
        raise SettingsError(f"{what} holds another stream's state ({found.sentence}): {remedy}")


def check_settings_of_group(
    js: JetStream, settings: Settings, content: Mapping[str, Any]
) -> Election:
    """The group's last election. Raises SettingsError where it goes by other settings."""
    election = find_last_election(js, settings.digests_stream, settings.group)
    _compare(settings, content, election)
    return election


def _compare(settings: Settings, content: Mapping[str, Any], election: Election) -> None:
    theirs = election.fields.get("content")
    if not isinstance(theirs, dict):
        return
    others = [
        f"{name} ({content_text(name, theirs.get(name))} there, "
        f"{content_text(name, content[name])} here)"
        for name in sorted(content)
        if theirs.get(name) != content[name]
    ]
    if others:
        raise SettingsError(
            f"the group {settings.group} goes by other settings, told by its leader "
            f"{election.name}: {', '.join(others)}; all replicas need the same. To change "
            f"one: stop all replicas, `nats stream purge {settings.digests_stream} --subject "
            f"{leader_subject(settings.group)}`, and start them with the new value"
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
