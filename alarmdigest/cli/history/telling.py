"""Steps of a story as lines for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alarmdigest._ext import timestamps
from alarmdigest.cli.history.story import Known, Step, Story
from alarmdigest.wire.messages import STATUS_NAMES

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
        alarm = f" {message.alarm_id}" if message.alarm_id else ""
        return f"{head}{alarm}: rejected ({message.reason}): {message.detail}"
    if message.kind == "event":
        clamped = " (it said later: too far in the future)" if message.clamped else ""
        changed = f"changed at {timestamps.to_text(message.changed_ns)}{clamped}"
        what = f"{message.alarm_id} {STATUS_NAMES[message.status]}, {changed}"
        known = "" if step.outcome == "late" else _as_known(step.complete)
        return f"{head} {what}: {_of_event(step)}{known}"
    if message.kind == "forget":
        return f"{head}: all memory of the user ends here"
    scheduled = f", scheduled for {step.scheduled}" if step.scheduled else ""
    return f"{head}{scheduled}: {_of_request(step)}{_delivered(step)}"


def _delivered(step: Step) -> str:
    found = [
        f"sent by {one.target} at {one.at}"
        if one.outcome == "sent"
        else f"not delivered by {one.target}, kept as a dead letter at {one.at}"
        for one in step.deliveries
    ]
    return "".join(f"; {one}" for one in found)


def _of_event(step: Step) -> str:
    if step.outcome != "late":
        return OF_EVENTS[step.outcome]
    counts = "a later one"
    if (latest := step.latest) is not None:
        counts = f"{STATUS_NAMES[latest.status]} of {timestamps.to_text(latest.changed_ns)}"
    due = ", but it is a change since what was told: due again" if step.due_by_it else ""
    return f"late: {counts} counts{due}"


def _of_request(step: Step) -> str:
    only, alarms = step.only_alarm, step.alarms
    if only is not None:
        alarms = [one for one in alarms if one[0] == only]
    named = _named([f"{alarm} {STATUS_NAMES[status]}" for alarm, status in alarms])
    if step.outcome == "digest":
        places = ", ".join(map(str, step.digests))
        digest = f"digest {places} with {_counted(len(step.alarms))}"
        if only is None:
            return f"{digest}: {named}" if named else f"{digest}: nothing is due"
        return f"{digest}, with {named}" if alarms else f"{digest}, without {_why_not(step)}"
    if only is not None and not alarms:
        return f"no digest with {_why_not(step)}"
    if step.outcome == "not_answered":
        return f"no digest yet, {_counted(len(step.alarms))} due: {named}"
    if step.outcome == "missing":
        return f"no digest in the stream, though {_counted(len(step.alarms))} due: {named}"
    if step.outcome == "unknown":
        return (
            "no digest: told before all that was read here and not changed since, else it is "
            f"missing: {named}"
        )
    if not step.told:
        return f"no digest: no alarm is active{_as_known(step.complete)}"
    told = _named(
        [f"{one.alarm_id} {STATUS_NAMES[one.status]}{_where_told(one)}" for one in step.told]
    )
    return (
        f"no digest: nothing is due{_as_known(step.complete)}; told and not changed since: {told}"
    )


def _why_not(step: Step) -> str:
    """The one alarm that was asked for, and why a digest does not hold it."""
    one = step.only_latest
    if one is None:
        read = "was ever read" if step.complete else "was read, what came before is not known"
        return f"{step.only_alarm}: no event of it {read}"
    if not one.status:
        return f"{step.only_alarm}: it is CLEARED"
    if one.digest or one.missing_for:
        return f"{step.only_alarm}: not changed since it was told{_where_told(one)}"
    if step.complete:
        return f"{step.only_alarm}, though it is {STATUS_NAMES[one.status]} and was never told"
    return f"{step.only_alarm}: told before all that was read here and not changed since"


def _where_told(one: Known) -> str:
    if one.digest:
        return f" in digest {one.digest}"
    if one.missing_for:
        return f" in the digest of request {one.missing_for}, which is not there"
    return ""


def _as_known(complete: bool) -> str:
    return "" if complete else " as far as is known here"


def end_of(story: Story) -> str:
    """The last line but for what the service says."""
    return (
        f"at the end: {len(story.active())} active, {story.due_count} due at the next request"
        f"{_as_known(story.complete)}; {story.events} events and {story.requests} requests read"
    )


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
        "complete": step.complete,
    }
    if message.reason:
        about = {"AlarmID": message.alarm_id} if message.alarm_id else {}
        return {**found, **about, "reason": message.reason, "detail": message.detail}
    if message.kind == "event":
        found |= {
            "AlarmID": message.alarm_id,
            "Status": STATUS_NAMES[message.status],
            "ChangedAt": timestamps.to_text(message.changed_ns),
            "clamped": message.clamped,
            "due_by_it": step.due_by_it,
        }
    elif message.kind == "request":
        found |= {
            "digests": step.digests,
            "alarms": [
                {"AlarmID": alarm, "Status": STATUS_NAMES[status]}
                for alarm, status in step.alarms
                if step.only_alarm in (None, alarm)
            ],
            "told": [
                {
                    "AlarmID": one.alarm_id,
                    "Status": STATUS_NAMES[one.status],
                    "digest": one.digest or None,
                    "missing_for": one.missing_for or None,
                }
                for one in step.told
                if step.only_alarm in (None, one.alarm_id)
            ],
            "scheduled": step.scheduled or None,
            "deliveries": [one._asdict() for one in step.deliveries],
        }
    return found
