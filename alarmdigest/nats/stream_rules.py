"""Rules for the configuration of the three streams: which values are refused, which cause a
warning.

A field without a rule may have any value; ``stream_fields.py`` gives the reason.
"""

from __future__ import annotations

from alarmdigest.nats.group_rules import GROUP_RULES
from alarmdigest.nats.stream_configs import ROLES, Role
from alarmdigest.nats.stream_findings import ANEW, EDIT, Finding, Rule
from alarmdigest.nats.stream_questions import (
    HOUR_NS,
    SECOND_NS,
    Seen,
    below,
    fills_up,
    is_full_of_consumers,
    is_one_of,
    mapping,
    misses_replicas,
    not_as_asked,
    number,
    other_outputs,
    republishes_to,
    source_leaves,
    transform_leaves,
)

# Below these a stream forgets so soon that a burst, or a restart of a reader, is too long for it.
FEW_MESSAGES = 100_000
FEW_DIGESTS = 10_000
FEW_BYTES = 64 * 2**20
FEW_PER_SUBJECT = 1000
SHORT_AGE_NS = HOUR_NS
SHORT_WINDOW_NS = 30 * SECOND_NS
# An event with ids of 36 characters has 180 bytes; one with the longest ids, all written as
# escapes, a little over 12 KiB.
SMALLEST_EVENT_BYTES = 256
LARGEST_EVENT_BYTES = 16 * 1024
# The smallest --split-size, and the room for headers beside it.
SMALLEST_DIGEST_BYTES = 16 * 1024 + 512

_few_per_subject = below("max_msgs_per_subject", FEW_PER_SUBJECT)

ALL: tuple[Role, ...] = ROLES
BOTH: tuple[Role, ...] = ("alarms", "digests")
TAKE_ALL = "--no-discard-per-subject --discard old --max-msgs-per-subject=-1"

RULES: tuple[Rule, ...] = (
    *GROUP_RULES,
    Rule(
        "mirror",
        ALL,
        "refuses",
        "set",
        lambda seen: bool(mapping(seen, "mirror")),
        "and a mirror captures no subject",
        "give us the original ({original}), or delete the mirror (nats stream rm {stream}), and we "
        "make a stream of our own",
    ),
    Rule(
        "retention",
        ALL,
        "refuses",
        "`interest`",
        is_one_of("retention", "interest"),
        "which deletes messages that are needed again after a crash",
        EDIT + "--retention limits",
        {"retention": "limits"},
    ),
    Rule(
        "retention",
        ALL,
        "refuses",
        "`workqueue`",
        is_one_of("retention", "workqueue"),
        "which deletes messages that are needed again after a crash",
        ANEW,
    ),
    Rule(
        "no_ack",
        ALL,
        "refuses",
        "`true`",
        is_one_of("no_ack", True),
        "so nobody learns what it has stored",
        EDIT + "--ack",
        {"no_ack": False},
    ),
    Rule(
        "sealed",
        ALL,
        "refuses",
        "`true`",
        is_one_of("sealed", True),
        "so it takes no message any more",
        ANEW,
    ),
    Rule(
        "allow_msg_counter",
        ALL,
        "refuses",
        "`true`",
        is_one_of("allow_msg_counter", True),
        "so it takes numbers to add up and refuses every message with a body",
        ANEW,
    ),
    Rule(
        "subject_transform",
        ("alarms",),
        "refuses",
        "it takes an input away from its subject (one that keeps events and requests at theirs or "
        "below is accepted)",
        transform_leaves,
        "so events and requests are stored where nobody looks for them",
        EDIT + "--no-transform",
        {"subject_transform": None},
    ),
    Rule(
        "subject_transform",
        ("digests", "rejected"),
        "warns",
        "it takes our messages away from their subject",
        transform_leaves,
        "so consumers of the stream must ask for that subject and not for ours",
        EDIT + "--no-transform",
        {"subject_transform": None},
    ),
    Rule(
        "sources",
        ("alarms",),
        "refuses",
        "one has a transform that takes an input away from its subject",
        source_leaves,
        "so events and requests from there are stored where nobody looks for them",
        "take the transform out of that source (nats stream edit {stream} --interactive)",
        {"sources": None},
    ),
    Rule(
        "republish",
        ("digests", "rejected"),
        "refuses",
        "to an input subject",
        republishes_to(lambda config: config.inputs),
        "so the service would read what it writes, round and round",
        EDIT + "--no-republish",
        {"republish": None},
    ),
    Rule(
        "republish",
        ALL,
        "warns",
        "to a subject of another of our outputs",
        republishes_to(other_outputs),
        "so what stands there is not only ours",
        EDIT + "--no-republish",
        {"republish": None},
    ),
    Rule(
        "max_msgs_per_subject",
        ("alarms",),
        "refuses",
        f"below {FEW_PER_SUBJECT}",
        lambda seen: _few_per_subject(seen) and not seen.config.get("discard_new_per_subject"),
        "so of all that comes on one subject it keeps so many, and deletes the rest unread",
        EDIT + "--max-msgs-per-subject=-1",
        {"max_msgs_per_subject": -1},
    ),
    Rule(
        "discard_new_per_subject",
        ("alarms",),
        "refuses",
        f"`true`, with a `max_msgs_per_subject` below {FEW_PER_SUBJECT}",
        lambda seen: _few_per_subject(seen) and bool(seen.config.get("discard_new_per_subject")),
        "so of all that comes on one subject it takes max_msgs_per_subject, and nothing more",
        EDIT + TAKE_ALL,
        {"max_msgs_per_subject": -1, "discard": "old", "discard_new_per_subject": False},
    ),
    Rule(
        "max_msgs_per_subject",
        ("digests",),
        "refuses",
        f"below {FEW_PER_SUBJECT}, with discard `old`",
        below("max_msgs_per_subject", FEW_PER_SUBJECT, "old"),
        "so of all digests, whose subject is one, it keeps so many, and deletes the rest unread",
        EDIT + "--max-msgs-per-subject=-1",
        {"max_msgs_per_subject": -1},
    ),
    *(
        rule
        for field, flag in (
            ("max_msgs", "--max-msgs=-1"),
            ("max_msgs_per_subject", "--max-msgs-per-subject=-1"),
        )
        for rule in (
            Rule(
                field,
                ("alarms",),
                "warns",
                f"below {FEW_MESSAGES}, with discard `old`",
                below(field, FEW_MESSAGES, "old"),
                "so a burst of more deletes what was not read yet",
                EDIT + flag,
                {field: -1},
            ),
            Rule(
                field,
                ("digests",),
                "warns",
                f"below {FEW_DIGESTS}, with discard `old`",
                below(field, FEW_DIGESTS, "old"),
                "so receivers that are away for more digests miss some, and a crash of ours may "
                "publish deleted ones again",
                EDIT + flag,
                {field: -1},
            ),
        )
    ),
    Rule(
        "max_bytes",
        BOTH,
        "warns",
        "below 64 MiB, with discard `old`, and not what our option for it says",
        not_as_asked("max_bytes", FEW_BYTES, lambda config: config.max_bytes),
        "so a burst of more deletes what was not read yet",
        EDIT + "--max-bytes=-1",
        {"max_bytes": -1},
    ),
    *(
        Rule(
            "discard",
            ("alarms",),
            "warns",
            f"`new`, with a `{field}`",
            fills_up(field),
            f"so once its {field} is reached no event and no request is stored any more",
            EDIT + how,
            {"discard": "old", "discard_new_per_subject": False},
        )
        for field, how in (
            ("max_msgs", "--discard old"),
            ("max_bytes", "--discard old"),
            ("max_msgs_per_subject", TAKE_ALL),
        )
    ),
    Rule(
        "max_age",
        BOTH,
        "warns",
        "below 1h, and not what our option for it says",
        not_as_asked("max_age", SHORT_AGE_NS, lambda config: config.max_age_ns),
        "so who is away for longer misses messages, and so may we",
        EDIT + "--max-age={age}",
        {"max_age": 7 * 24 * HOUR_NS},
    ),
    Rule(
        "max_msg_size",
        ("alarms",),
        "refuses",
        f"below {SMALLEST_EVENT_BYTES}",
        below("max_msg_size", SMALLEST_EVENT_BYTES),
        "so it refuses most events",
        EDIT + "--max-msg-size=-1",
        {"max_msg_size": -1},
    ),
    Rule(
        "max_msg_size",
        ("alarms",),
        "warns",
        f"below {LARGEST_EVENT_BYTES}",
        below("max_msg_size", LARGEST_EVENT_BYTES),
        "so it refuses events with long ids, and whoever publishes without asking for a "
        "confirmation is not told",
        EDIT + "--max-msg-size=-1",
        {"max_msg_size": -1},
    ),
    Rule(
        "max_msg_size",
        ("digests",),
        "refuses",
        f"below {SMALLEST_DIGEST_BYTES}",
        below("max_msg_size", SMALLEST_DIGEST_BYTES),
        f"and the smallest part that a digest is split into takes {SMALLEST_DIGEST_BYTES} with its "
        "headers",
        EDIT + "--max-msg-size=-1",
        {"max_msg_size": -1},
    ),
    Rule(
        "max_msg_size",
        ("rejected",),
        "warns",
        f"below {LARGEST_EVENT_BYTES}",
        below("max_msg_size", LARGEST_EVENT_BYTES),
        "so larger rejected messages are given up, and counted",
        EDIT + "--max-msg-size=-1",
        {"max_msg_size": -1},
    ),
    Rule(
        "max_consumers",
        BOTH,
        "warns",
        "all of them are there",
        is_full_of_consumers,
        "and there are as many, so we can have none: without one we read nothing",
        "delete one that nobody needs (nats consumer ls {stream}; nats consumer rm {stream} NAME), "
        "or allow more (nats stream edit {stream} --max-consumers=-1)",
        {"max_consumers": -1},
    ),
    Rule(
        "storage",
        BOTH,
        "warns",
        "`memory`, with one replica",
        lambda seen: is_one_of("storage", "memory")(seen) and number(seen, "num_replicas") < 2,
        "so a restart of the server loses what it holds, confirmed or not",
        ANEW,
    ),
    Rule(
        "persist_mode",
        BOTH,
        "warns",
        "`async`",
        is_one_of("persist_mode", "async"),
        "so a crash of the server may lose what it has confirmed",
        ANEW,
    ),
    Rule(
        "num_replicas",
        ALL,
        "warns",
        "below `--stream-replicas`",
        misses_replicas,
        "and --stream-replicas asks for {replicas}",
        EDIT + "--replicas={replicas}",
        {"num_replicas": 3},
    ),
    Rule(
        "duplicate_window",
        ("digests",),
        "warns",
        "below 30s, unless the age is as short",
        lambda seen: (
            below("duplicate_window", SHORT_WINDOW_NS)(seen)
            and number(seen, "duplicate_window") < (number(seen, "max_age") or SHORT_WINDOW_NS)
        ),
        "so a digest that was still on its way when a connection broke may be stored twice",
        EDIT + "--dupe-window=2m",
        {"duplicate_window": 120 * SECOND_NS},
    ),
    Rule(
        "allow_rollup_hdrs",
        BOTH,
        "warns",
        "`true`",
        is_one_of("allow_rollup_hdrs", True),
        "so one message with the header Nats-Rollup deletes all before it, also what nobody has "
        "read",
        EDIT + "--no-allow-rollup",
        {"allow_rollup_hdrs": False},
    ),
    Rule(
        "subject_delete_marker_ttl",
        BOTH,
        "warns",
        "set",
        lambda seen: number(seen, "subject_delete_marker_ttl") > 0,
        "so the server puts empty messages among ours, which no reader of them expects",
        EDIT + "--subject-del-markers-ttl=0s",
        {"subject_delete_marker_ttl": 0},
    ),
)


def check(seen: Seen) -> list[Finding]:
    """What is wrong or unwise; what is refused comes first."""
    found = [finding for rule in RULES if (finding := rule.check(seen)) is not None]
    refused = {finding.field for finding in found if finding.verdict == "refuses"}
    return sorted(
        (one for one in found if one.verdict == "refuses" or one.field not in refused),
        key=lambda finding: finding.verdict,
    )
