"""Every field of a stream's configuration, and why values that no rule names are accepted.

docs/streams.md shows rules and reasons as one table (``python -m alarmdigest.nats.stream_fields``
prints its rows), and a test sets each field on a real server.
"""

from __future__ import annotations

from collections.abc import Mapping

from alarmdigest.nats.stream_questions import Config
from alarmdigest.nats.stream_rules import ALL, RULES

# Why the values that no rule names are accepted; empty where the table needs no such row.
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
    "republish": "copies elsewhere do no harm",
    "max_msgs": "set what limits you like: what they delete unread is counted and reported",
    "max_bytes": "as `max_msgs`",
    "max_msgs_per_subject": "as `max_msgs`",
    "max_age": "as `max_msgs`",
    "discard": "with `new`, digests wait for room in their stream, and rejected messages are "
    "given up and counted",
    "discard_new_per_subject": "as `discard`, see `max_msgs_per_subject`",
    "max_msg_size": "digests are split to fit",
    "max_consumers": "we need one of `ALARMS`, and one of `ALARM_DIGESTS` after a start",
    "storage": "",
    "persist_mode": "",
    "num_replicas": "as many as you like",
    "duplicate_window": "the ids of events are chosen by those who publish them",
    "allow_rollup_hdrs": "",
    "subject_delete_marker_ttl": "",
    "consumer_limits": "our consumers take the stream's `inactive_threshold` where it is shorter "
    "than ours, and acknowledge nothing",
    "allow_msg_ttl": "only a message whose publisher asked for it expires early",
    "allow_msg_schedules": "a message that is to be repeated counts when it is stored, and each "
    "time it is repeated",
    "allow_atomic": "we read batches as single messages",
    "allow_batched": "as `allow_atomic`",
    "first_seq": "numbers may begin anywhere",
    "compression": "concerns only the server",
    "placement": "concerns only the server",
    "metadata": "for people and their tools",
    "allow_direct": "we ask the stream's leader",
    "mirror_direct": "as `allow_direct`",
    "deny_delete": "we delete nothing",
    "deny_purge": "we purge nothing",
    "template_owner": "only before nats-server 2.11",
}
KNOWN = frozenset(FINE)


# For the table. Which subjects are missing depends on the other streams, see streams.py.
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
            rows.append(f"| `{field}` | {when} | all | accepts | {fine} |")
    return rows


def unknown_fields(config: Config) -> list[str]:
    """Those that no rule knows: of a server that is newer than this program."""
    return sorted(set(config) - KNOWN)


if __name__ == "__main__":
    print("\n".join(table()))
