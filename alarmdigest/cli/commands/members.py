"""The commands ``members`` and ``step-down``: who is in a group, and another leader for it."""

from __future__ import annotations

import sys
import time
from typing import Any

import orjson

from alarmdigest.cli.client import connect
from alarmdigest.cli.commands.snapshot import snapshot_json, snapshots_of
from alarmdigest.cli.terminal import duration_text, table, write_json, write_line
from alarmdigest.nats.errors import NatsError, NoAnswer
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.requests import Requests
from alarmdigest.pipeline.snapshot_terms import open_bucket
from alarmdigest.replication.kept_beats import (
    SILENT_AFTER_S,
    KeptBeat,
    groups_with_names,
    kept_beats,
)
from alarmdigest.replication.subjects import control_subject, leader_subject
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError

HEADS = ("REPLICA", "ROLE", "INPUT", "BEHIND", "STATE", "HEARD", "VERSION", "HOST")


def members(settings: Settings, *, as_json: bool) -> int:
    """Show who is in the group on stdout; the exit code. Raises NatsError, SettingsError."""
    connection = connect(settings, "alarmdigest-members")
    try:
        js = JetStream(connection, domain=settings.js_domain)
        found = look_at_group(js, settings)
        found["snapshot"] = _newest_snapshot(settings, found["group"])
    finally:
        connection.close()
    if as_json:
        write_json(found)
        return exit_codes.CLEAN
    rows = [
        (
            one["name"],
            one["role"],
            str(one["input"]),
            "?" if one["behind"] is None else str(one["behind"]),
            one["state"],
            f"{duration_text(one['heard_seconds_ago'])} ago",
            one["version"],
            one["host"],
        )
        for one in found["members"]
    ]
    leader = found["leader"] or "nobody"
    write_line(printable(f"group {found['group']}, led by {leader}, token {found['token']}"))
    for line in table(HEADS, rows):
        write_line(printable(line))
    if (newest := found["snapshot"]) is not None:
        age = duration_text(max(0.0, time.time() - newest["state_of_ns"] / 1e9))
        write_line(printable(f"newest snapshot: {newest['name']}, {age} old"))
    return exit_codes.CLEAN


def _newest_snapshot(settings: Settings, group: str) -> dict[str, Any] | None:
    """None also where we may not look."""
    connection = connect(settings, "alarmdigest-members")
    try:
        found = snapshots_of(open_bucket(connection, settings), group)
    except NatsError:
        return None
    finally:
        connection.close()
    return snapshot_json(found[0]) if found else None


def look_at_group(js: JetStream, settings: Settings) -> dict[str, Any]:
    """What the group's streams tell, as JSON has it. Raises SettingsError."""
    group, names = _names(js, settings.group)
    last = js.find_message(settings.digests_stream, {"last_by_subj": leader_subject(group)})
    token = last.seq if last is not None else 0
    events = js.stream_info(settings.events_stream)
    shown: list[dict[str, Any]] = []
    leader = ""
    for kept in kept_beats(js, group, names):
        beat = kept.beat
        # Who still claims to lead with an older token has not been heard since.
        gone = kept.age_s >= SILENT_AFTER_S or 0 < beat.token < token
        leads = beat.leads and not gone
        leader = beat.name if leads else leader
        gone = gone or kept.stopped
        shown.append(
            {
                "name": beat.name,
                "role": "" if gone else "leader" if leads else "follower",
                "input": beat.position,
                "behind": None if events is None else max(0, events.last_seq - beat.position),
                "state": _state(kept, gone=gone),
                "heard_seconds_ago": round(kept.age_s, 1),
                "priority": beat.priority,
                "version": _text(beat.about.get("version")),
                "host": _text(beat.about.get("host")),
                "pid": pid if isinstance(pid := beat.about.get("pid"), int) else None,
                "word": beat.word.to_json(),
            }
        )
    return {"group": group, "leader": leader or None, "token": token, "members": shown}


def _text(value: object) -> str:
    """Of what anybody may have published."""
    return value if isinstance(value, str) else ""


def _state(kept: KeptBeat, *, gone: bool) -> str:
    if kept.stopped:
        return "stopped"
    if gone:
        return "silent"
    if kept.beat.about.get("diverged"):
        return "diverged"
    return "ready" if kept.beat.ready else "catching up"


def _names(js: JetStream, wanted: str) -> tuple[str, list[str]]:
    """The group and its replicas. Raises SettingsError."""
    groups = groups_with_names(js, wanted)
    if len(groups) > 1:
        raise SettingsError(f"there are several groups: say --group, one of {', '.join(groups)}")
    if not groups:
        named = f"no group {wanted}" if wanted else "no group"
        raise SettingsError(
            f"{named} on this server: no replica has been heard of, at least not for a day"
        )
    [(group, names)] = groups.items()
    return group, names


def step_down(settings: Settings, *, to: str, timeout_s: float) -> int:
    """Ask the leader to have another replica elected; the exit code. Raises NatsError,
    SettingsError."""
    connection = connect(settings, "alarmdigest-step-down")
    try:
        js = JetStream(connection, domain=settings.js_domain)
        group, names = _names(js, settings.group)
        if to and to not in names:
            raise SettingsError(f"there is no replica {to} in the group, but {', '.join(names)}")
        js.close()
        requests = Requests(connection, timeout_s=timeout_s)
        try:
            answer = requests.ask_once(control_subject(group), orjson.dumps({"step_down": to}))
        except NoAnswer:
            print("alarmdigest: no leader has answered", file=sys.stderr)
            return exit_codes.INTERNAL_ERROR
    finally:
        connection.close()
    try:
        told = orjson.loads(answer)
        leader, problem = str(told["leader"]), str(told["problem"])
    except (ValueError, KeyError, TypeError):
        leader, problem = "", "what has answered is no alarmdigest"
    if problem:
        print(f"alarmdigest: {printable(problem)}", file=sys.stderr)
        return exit_codes.INTERNAL_ERROR
    write_line(printable(f"{leader} leads the group {group} now"))
    return exit_codes.CLEAN
