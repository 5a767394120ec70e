"""Rules for the streams of a group of replicas, beside those for all (``stream_rules.py``).

Every replica must read the same input: whatever may delete a message that one has read and another
has not makes their states differ. And digests go as atomic batches, behind a fence.
"""

from __future__ import annotations

from alarmdigest.nats.stream_findings import ANEW, EDIT, Rule
from alarmdigest.nats.stream_questions import Question, is_one_of, number, transform_leaves


def in_group(question: Question) -> Question:
    return lambda seen: seen.wanted.in_group and question(seen)


GROUP_RULES: tuple[Rule, ...] = (
    Rule(
        "allow_atomic",
        ("digests",),
        "refuses",
        "not `true`, with `--group`",
        in_group(lambda seen: not is_one_of("allow_atomic", True)(seen)),
        "and a group publishes in atomic batches",
        EDIT + "--allow-batch",
        {"allow_atomic": True},
    ),
    Rule(
        "subject_transform",
        ("digests",),
        "refuses",
        "it takes digests or leader messages away from their subject, with `--group`",
        in_group(transform_leaves),
        "so nobody finds out who leads the group",
        EDIT + "--no-transform",
        {"subject_transform": None},
    ),
    Rule(
        "max_msgs_per_subject",
        ("alarms",),
        "refuses",
        "set, with `--group`",
        in_group(lambda seen: number(seen, "max_msgs_per_subject") > 0),
        "so a replica that reads later misses what others have read",
        EDIT + "--max-msgs-per-subject=-1",
        {"max_msgs_per_subject": -1},
    ),
    Rule(
        "allow_msg_ttl",
        ("alarms",),
        "refuses",
        "`true`, with `--group`",
        in_group(is_one_of("allow_msg_ttl", True)),
        "so a message may be gone before the last replica has read it",
        ANEW,
    ),
    Rule(
        "allow_rollup_hdrs",
        ("alarms",),
        "refuses",
        "`true`, with `--group`",
        in_group(is_one_of("allow_rollup_hdrs", True)),
        "so one message may delete what the last replica has not read",
        EDIT + "--no-allow-rollup",
        {"allow_rollup_hdrs": False},
    ),
)
