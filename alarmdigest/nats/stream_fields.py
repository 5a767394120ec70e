"""For every field of a stream's configuration that has no rule: why any value is acceptable.

docs/streams.md shows rules and reasons as one table (``python -m alarmdigest.nats.stream_fields``
prints its rows), and a test sets each field on a real server.
"""

from __future__ import annotations

from collections.abc import Mapping

from alarmdigest.nats.stream_questions import Config
from alarmdigest.nats.stream_rules import ALL, RULES

# Why the rest does not matter, field by field; what a rule above says about a field goes first.
FINE: Mapping[str, str] = {
    "name": "an option names the stream",
    "description": "for people",
    "subjects": "more than ours are fine: we read ours only",
    "sources": "what comes from there on our subjects counts like what is published on them",
    "mirror": "",
    "retention": "`limits` is what we need",
    "no_ack": "",
    "sealed": "",
    "allow_msg_counter": "",
    "subject_transform": "subjects that are not ours may go anywhere",
    "republish": "copies elsewhere are nobody's harm",
    "max_msgs": "limits are yours to set: what they delete unread is counted and reported",
    "max_bytes": "likewise",
    "max_msgs_per_subject": "likewise",
    "max_age": "likewise",
    "discard": "with `new`, digests wait for room in their stream, and refusals are given up and "
    "counted",
    "discard_new_per_subject": "as `discard`, see `max_msgs_per_subject`",
    "max_msg_size": "digests are split to fit",
    "max_consumers": "we need one of `ALARMS`, and one of `ALARM_DIGESTS` after a start",
    "storage": "",
    "persist_mode": "",
    "num_replicas": "as many as you like",
    "duplicate_window": "of events, ids are their publishers' affair",
    "allow_rollup_hdrs": "",
    "subject_delete_marker_ttl": "",
    "consumer_limits": "our consumers take the stream's `inactive_threshold` where it is shorter "
    "than ours, and acknowledge nothing",
    "allow_msg_ttl": "who gives a message of theirs a life wants it to end",
    "allow_msg_schedules": "a message that is to be repeated counts when it is stored, and each "
    "time it is repeated",
    "allow_atomic": "we read batches as single messages",
    "allow_batched": "likewise",
    "first_seq": "numbers may begin anywhere",
    "compression": "the server's affair",
    "placement": "the server's affair",
    "metadata": "for people and their tools",
    "allow_direct": "we ask the stream's leader",
    "mirror_direct": "likewise",
    "deny_delete": "we delete nothing",
    "deny_purge": "likewise",
    "template_owner": "only before nats-server 2.11",
}
KNOWN = frozenset(FINE)


# For the table; what is missing only a look at the other streams tells, see streams.py.
SUBJECTS_ROW = (
    "| `subjects` | not all of ours | all | refuses | and what is not captured is lost: nats "
    "stream edit STREAM --subjects '…' (the log has the whole command) |"
)


def table() -> list[str]:
    """The rows of docs/streams.md."""
    streams = {"alarms": "`ALARMS`", "digests": "`ALARM_DIGESTS`", "rejected": "`ALARM_REJECTED`"}
    rows: list[str] = []
    for field, fine in FINE.items():
        before = len(rows)
        if field == "subjects":
            rows.append(SUBJECTS_ROW)
        for rule in (rule for rule in RULES if rule.field == field):
            where = "all" if rule.roles == ALL else ", ".join(streams[role] for role in rule.roles)
            remedy = rule.remedy.format(
                stream="STREAM",
                option="--…-stream",
                replicas="N",
                original="--…-stream ORIGINAL",
                age="7d",
            )
            because = rule.because.format(replicas="N")
            rows.append(
                f"| `{field}` | {rule.when} | {where} | {rule.verdict} | {because}: {remedy} |"
            )
        if fine:
            when = "else" if len(rows) > before else "any"
            rows.append(f"| `{field}` | {when} | all | lives with it | {fine} |")
    return rows


def unknown_fields(config: Config) -> list[str]:
    """Those that no rule knows: of a server that is newer than this program."""
    return sorted(set(config) - KNOWN)


if __name__ == "__main__":
    print("\n".join(table()))
