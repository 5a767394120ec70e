"""The command ``status``: what the page shows, for a terminal."""

from __future__ import annotations

import http.client
import sys
import urllib.error
import urllib.request
from typing import Any

import orjson

from alarmdigest import exit_codes
from alarmdigest.settings import Settings, SettingsError
from alarmdigest.tools.terminal import duration_text, size_text, write_json, write_line, write_table

TIMEOUT_S = 5.0
SENTENCES = {
    "ready": "The service is well.",
    "not ready": "The service does not do its work right now:",
    "ill": "The service is ill and should be restarted:",
}


def status(settings: Settings, *, as_json: bool) -> int:
    """Report on stdout; the exit code. Raises SettingsError."""
    if settings.http is None:
        raise SettingsError("--http off: status asks a service over HTTP, name its HOST:PORT")
    url = f"{settings.http.url}/status.json"
    try:
        found = _ask(url)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        print(
            f"alarmdigest: no status from {url}: {reason}; is the service running, and is this "
            "the address that it logs as listening?",
            file=sys.stderr,
        )
        return exit_codes.INTERNAL_ERROR
    if as_json:
        write_json(found)
    else:
        _write(found)
    return exit_codes.CLEAN


def _ask(url: str) -> dict[str, Any]:
    """Raises OSError, HTTPException, and ValueError for what is no status of ours."""
    # No proxy: the service is here, or on a network of ours.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=TIMEOUT_S) as answer:
        found = orjson.loads(answer.read())
    if not isinstance(found, dict) or found.get("state") not in SENTENCES:
        raise ValueError("what answers there is no alarmdigest")
    return found


def _write(found: dict[str, Any]) -> None:
    write_line(SENTENCES[found["state"]])
    for reason in found["reasons"]:
        write_line(f"  - {reason}")
    write_line("")
    behind, checkpoint = found["behind"], found["checkpoint"]
    lines = [
        ("version", f"{found['version']}, up {duration_text(found['uptime_seconds'])}"),
        ("mode", found["mode"] or "not known yet"),
        ("streams", ", ".join(found["streams"]) or "none"),
        ("store", found["store"]),
        *((f"{name}/s", f"{rate:,.1f}") for name, rate in found["rates"].items()),
        ("behind", _behind(behind)),
        ("backlog", size_text(behind["backlog_bytes"])),
        ("checkpoint", _checkpoint(checkpoint) if checkpoint else "none yet"),
    ]
    _write_pairs(lines)
    write_line("")
    write_line("Since the start of the process:")
    _write_pairs(
        [
            ("checkpoints", _checkpoints(checkpoint) if checkpoint else "none"),
            ("refused", _counts(found["refused"]["by_reason"])),
            ("losses", _counts(found["losses"])),
            ("stream changes", _counts(found["stream_changes"])),
        ]
    )
    if found["refused"]["last"]:
        write_line("")
        write_table(
            ("REFUSED AT", "REASON", "BYTES"),
            [(one["at"], one["reason"], str(one["bytes"])) for one in found["refused"]["last"]],
        )
    if found["workers"]:
        write_line("")
        write_table(
            ("WORKER", "QUEUE", "ALARMS", "USERS"),
            [
                (one["name"], str(one["queue"]), f"{one['alarms']:,}", f"{one['users']:,}")
                for one in found["workers"]
            ],
        )


def _write_pairs(lines: list[tuple[str, str]]) -> None:
    for name, text in lines:
        write_line(f"{name:<16}{text}")


def _behind(behind: dict[str, Any]) -> str:
    if behind["messages"] is None:
        return "not known in core mode"
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
