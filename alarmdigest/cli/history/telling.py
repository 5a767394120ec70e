"""Steps of a story as lines for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest.cli.history.story import WORDS, Step

MOST_NAMED = 5
OF_EVENTS = {
    "new": "new",
    "merged": "counts from now on",
    "repeated": "the same once more, changes nothing",
    "anew": "new, since it was cleared and forgotten before",
}


def line_of(step: Step) -> str:
    """Without an end of line; what it quotes is not made printable yet."""
    message = step.message
    head = f"{timestamps.to_text(message.stored_ns)}  {message.sequence}  {message.kind}"
    if step.outcome == "rejected":
        return f"{head}: rejected ({message.reason}): {message.detail}"
    if message.kind == "event":
        clamped = " (it said later: too far in the future)" if message.clamped else ""
        changed = f"changed at {timestamps.to_text(message.changed_ns)}{clamped}"
        what = f"{message.alarm_id} {WORDS[message.status]}, {changed}"
        return f"{head} {what}: {_of_event(step)}"
    if message.kind == "forget":
        return f"{head}: all memory of the user ends here"
    return f"{head}: {_of_request(step)}"


def _of_event(step: Step) -> str:
    if step.outcome != "late":
        return OF_EVENTS[step.outcome]
    if step.latest is None:
        return "late: a later one counts"
    time_ns, status = step.latest
    return f"late: {WORDS[status]} of {timestamps.to_text(time_ns)} counts"


def _of_request(step: Step) -> str:
    named = _named([f"{alarm} {status}" for alarm, status in step.alarms])
    if step.outcome == "digest":
        places = ", ".join(map(str, step.digests))
        return f"digest {places} with {_counted(len(step.alarms))}: {named}"
    if step.outcome == "missing":
        return (
            f"no digest in the stream, though {_counted(len(step.alarms))} due: {named}; has the "
            "service come so far (alarmdigest status)?"
        )
    if step.outcome == "told before":
        return f"no digest: told before all that was read here, and not changed since: {named}"
    if not step.quiet:
        return "no digest: no alarm is active"
    quiet = _named([_told(*one) for one in step.quiet])
    return f"no digest: nothing is due; told and not changed since: {quiet}"


def _told(alarm: str, status: str, digest: int) -> str:
    return f"{alarm} {status} in digest {digest}" if digest else f"{alarm} {status}"


def _counted(count: int) -> str:
    return "1 alarm" if count == 1 else f"{count} alarms"


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def json_of(step: Step) -> dict[str, Any]:
    message = step.message
    found: dict[str, Any] = {
        "sequence": message.sequence,
        "stored_at": timestamps.to_text(message.stored_ns),
        "kind": message.kind,
        "outcome": step.outcome,
    }
    if message.reason:
        return {**found, "reason": message.reason, "detail": message.detail}
    if message.kind == "event":
        found |= {
            "AlarmID": message.alarm_id,
            "Status": WORDS[message.status],
            "ChangedAt": timestamps.to_text(message.changed_ns),
            "clamped": message.clamped,
        }
    elif message.kind == "request":
        found |= {
            "digests": step.digests,
            "alarms": [{"AlarmID": alarm, "Status": status} for alarm, status in step.alarms],
            "told": [
                {"AlarmID": alarm, "Status": status, "digest": told or None}
                for alarm, status, told in step.quiet
            ],
        }
    return found
