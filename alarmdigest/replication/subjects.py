"""The subjects and the stream that a group has beside those of a single service."""

from __future__ import annotations

from typing import Any

GROUP_STREAM = "ALARMDIGEST_GROUP"
#: Below it a subject for each replica of each group, which holds its newest beat.
BEATS = "AlarmDigestGroup"
#: Below it a subject for each group, captured by the digest stream. Not below ``AlarmDigest``, so
#: that who subscribes to digests does not see it.
LEADERS = "AlarmDigestLeader"
#: Below it a subject for each group, for requests of operators.
CONTROL = "AlarmDigestControl"
#: Others may write to the stream, too.
MAX_BEAT_BYTES = 64 * 1024
#: Names of replicas that are gone are forgotten after so long.
MEMBERS_MAX_AGE_NS = 24 * 3600 * 10**9


def beat_subject(group: str, name: str) -> str:
    return f"{BEATS}.{group}.{name}"


def leader_subject(group: str) -> str:
    return f"{LEADERS}.{group}"


def control_subject(group: str) -> str:
    """Requests to whoever leads the group come in here."""
    return f"{CONTROL}.{group}"


def group_stream_config(replicas: int) -> dict[str, Any]:
    """The stream of beats, as ``STREAM.CREATE`` takes it."""
    return {
        "name": GROUP_STREAM,
        "subjects": [f"{BEATS}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_msg_size": MAX_BEAT_BYTES,
        "max_age": MEMBERS_MAX_AGE_NS,
        "num_replicas": replicas,
    }
