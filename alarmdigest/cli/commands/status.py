"""The command ``status``: what the page shows, for a terminal."""

from __future__ import annotations

import http.client
import sys
import urllib.error
import urllib.request
from typing import Any

import orjson

from alarmdigest.cli.terminal import duration_text, size_text, table, write_json, write_line
from alarmdigest.runtime import exit_codes
from alarmdigest.runtime.text import printable
from alarmdigest.settings import Settings, SettingsError

TIMEOUT_S = 5.0
A_DAY_S = 86_400
SENTENCES = {
    "ready": "The service is well.",
    "not ready": "The service does not do its work right now:",
    "ill": "The service is ill and should be restarted:",
}
CONNECTION_HEADS = ("CONNECTION", "SERVER", "NAME", "VERSION", "RECONNECTS", "STATE")


def status(settings: Settings, *, as_json: bool) -> int:
    """Report on stdout; the exit code. Raises SettingsError."""
    if settings.http is None:
        raise SettingsError("--http off: status asks a service over HTTP, name its HOST:PORT")
    url = f"{settings.http.url}/status.json"
    try:
        answer = _ask(url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _no_status(url, str(getattr(error, "reason", None) or error))
    try:
        found = orjson.loads(answer)
        lines = _lines(found)
    except (AttributeError, KeyError, TypeError, ValueError):
        why = "what answers there is no alarmdigest (or one of another version)"
        return _no_status(url, why)
    if as_json:
        write_json(found)
    else:
        for line in lines:
            write_line(printable(line))
    return exit_codes.CLEAN


def _ask(url: str) -> bytes:
    """Raises OSError, HTTPException, and ValueError for a name that no host can have."""
    # No proxy: the service is here, or on a network of ours.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=TIMEOUT_S) as answer:
        body: bytes = answer.read()
    return body


def _no_status(url: str, why: str) -> int:
    print(
        f"alarmdigest: no status from {url}: {printable(why)}; is the service running, and is "
        "this the address that it logs as listening?",
        file=sys.stderr,
    )
    return exit_codes.INTERNAL_ERROR


def _lines(found: dict[str, Any]) -> list[str]:
    """What is shown. Anybody may answer: what is no status of ours fails at something that is not
    there or of another kind (AttributeError, KeyError, TypeError, ValueError)."""
    behind, checkpoint, rejected = found["behind"], found["checkpoint"], found["rejected"]
    lines = [
        SENTENCES[found["state"]],
        *(f"  - {reason}" for reason in found["reasons"]),
        "",
        *_pairs(
            ("version", f"{found['version']}, up {duration_text(found['uptime_seconds'])}"),
            ("process", f"{found['pid']} on {found['host']}, Python {found['python']}"),
            ("data", _data(found)),
            ("mode", found["mode"] or "not known yet"),
            ("streams", ", ".join(found["streams"]) or "none"),
            *_copies(found["stream_states"]),
            *_group(found["group"]),
            ("way", _way(found["way"])),
            ("store", found["store"]),
            *((f"{name}/s", f"{rate:,.1f}") for name, rate in found["rates"].items()),
            ("behind", _behind(behind, found["mode"])),
            ("position", _position(found["position"])),
            ("backlog", size_text(behind["backlog_bytes"])),
            *_clock(found["arrival"]),
            ("alarms", _alarms(found["alarms"])),
            ("last digest", _output(found["output"]) if found["output"] else "none yet"),
            ("checkpoint", _checkpoint(checkpoint) if checkpoint else "none yet"),
            ("settings", _settings(found["settings"])),
        ),
        "",
        *table(CONNECTION_HEADS, [_connection(one) for one in found["connections"]]),
        "",
        "Since the start of the process:",
        *_pairs(
            ("checkpoints", _checkpoints(checkpoint) if checkpoint else "none"),
            ("rejected", _counts(rejected["by_reason"])),
            ("losses", _counts(found["losses"])),
            ("stream changes", _counts(found["stream_changes"])),
        ),
    ]
    if found["happened"]:
        happened = [(one["at"], one["what"]) for one in found["happened"]]
        lines += ["", *table(("AT", "LOST OR RECREATED"), happened)]
    if rejected["last"]:
        last = [(one["at"], one["reason"], str(one["bytes"])) for one in rejected["last"]]
        lines += ["", *table(("REJECTED AT", "REASON", "BYTES"), last)]
    if found["workers"]:
        workers = [
            (one["name"], str(one["queue"]), f"{one['alarms']:,}", f"{one['users']:,}")
            for one in found["workers"]
        ]
        lines += ["", *table(("WORKER", "QUEUE", "ALARMS", "USERS"), workers)]
    return lines


def _pairs(*named: tuple[str, str]) -> list[str]:
    return [f"{name:<16}{text}" for name, text in named]


def _group(group: dict[str, Any] | None) -> list[tuple[str, str]]:
    if group is None:
        return []
    names = [
        one["name"] + (" (leads)" if one["leads"] else "") + ("" if one["alive"] else " (silent)")
        for one in group["members"]
    ]
    return [("group", f"{group['group']}: {', '.join(names)}; this is {group['replica']}")]


def _way(way: dict[str, dict[str, Any]]) -> str:
    """How many run of each process that is on the way of an alarm besides the service."""
    return ", ".join(
        f"{name} {'not known' if one['processes'] is None else one['processes'] or 'not running'}"
        for name, one in way.items()
    )


def _data(found: dict[str, Any]) -> str:
    if found["store"] == "cassandra":
        return f"in {found['store_place']}"
    free = found["disk"]["free_bytes"]
    return (
        f"{found['data_dir']} ({found['store']} {size_text(found['disk']['store_bytes'])}, "
        f"{'unknown' if free is None else size_text(free)} free)"
    )


def _position(position: dict[str, Any] | None) -> str:
    if position is None:
        return "none"
    return (
        f"message {position['sequence']} of {position['last_sequence']}, stored at "
        f"{position['stored_at'] or 'an unknown time'}"
    )


def _alarms(alarms: dict[str, int]) -> str:
    return (
        f"{alarms['held']:,} held, {alarms['active']:,} active, {alarms['due']:,} due, of "
        f"{alarms['users']:,} users"
    )


def _clock(arrival: dict[str, Any]) -> list[tuple[str, str]]:
    """Only where something is wrong with it."""
    ahead_s = arrival["ahead_seconds"]
    if ahead_s is None or ahead_s < A_DAY_S:  # behind: of old messages
        return []
    days = f"{ahead_s / A_DAY_S:,.0f} days ahead of our clock"
    where = "see 'A clock was wrong by years' in docs/faq.md"
    return [("clock", f"arrivals go by {arrival['at']}, {days}: {where}")]


def _output(output: dict[str, Any]) -> str:
    last = output["last_digest_at"] or "none yet"
    if not output["unconfirmed_bytes"]:
        return f"{last}, all confirmed"
    return (
        f"{last}, {size_text(output['unconfirmed_bytes'])} unconfirmed for "
        f"{duration_text(output['oldest_unconfirmed_seconds'])}"
    )


def _settings(settings: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "as by default"


def _connection(one: dict[str, Any]) -> tuple[str, ...]:
    state = "open" if one["connected"] else f"none: {one['last_error']}"
    names = (one["server"], one["server_name"], one["server_version"])
    shown = (name or "-" for name in names)
    return (one["name"], *shown, str(one["reconnects"]), state)


def _behind(behind: dict[str, Any], mode: str) -> str:
    if behind["messages"] is None:
        return "not known in core mode" if mode == "core" else "not known now"
    return f"{behind['messages']:,} messages, {duration_text(behind['seconds'])}"


def _checkpoint(checkpoint: dict[str, Any]) -> str:
    return (
        f"{duration_text(checkpoint['age_seconds'])} ago, took "
        f"{duration_text(checkpoint['seconds'])}, {size_text(checkpoint['bytes'])}"
    )


def _checkpoints(checkpoint: dict[str, Any]) -> str:
    return f"{checkpoint['written']:,} written, {checkpoint['failures']:,} failed"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "none"


def _copies(states: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """On how many servers each stream is kept, where that is known."""
    texts = [f"{state['name']} {state['replicas']}" for state in states]
    return [("stream copies", ", ".join(texts))] if texts else []
