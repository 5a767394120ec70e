"""Key-value buckets: ADR-8 of nats-io/nats-architecture-and-design.

A bucket is a stream ``KV_<name>`` of the subjects ``$KV.<name>.>``, the newest message of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alarmdigest.nats.answers import StreamInfo
from alarmdigest.nats.errors import JetStreamError, StreamConflict, StreamMissing
from alarmdigest.nats.jetstream import NAME_IN_USE, JetStream

DUPLICATE_WINDOW_NS = 120 * 10**9


@dataclass(frozen=True, slots=True)
class BucketConfig:
    """A bucket as we make it: age in ns, 0 for ever; size in bytes, -1 for no limit.

    With a limit, the oldest entries go when it is full.
    """

    name: str
    max_age_ns: int
    max_bytes: int
    replicas: int = 1
    domain: str = ""

    @property
    def stream(self) -> str:
        return f"KV_{self.name}"

    def subject(self, key: str) -> str:
        """To publish an entry to; as the stream has it where it lives in our own domain."""
        prefix = f"$JS.{self.domain}.API." if self.domain else ""
        return f"{prefix}$KV.{self.name}.{key}"

    def api_config(self) -> dict[str, Any]:
        return {
            "name": self.stream,
            "subjects": [f"$KV.{self.name}.>"],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_msgs_per_subject": 1,
            "max_age": self.max_age_ns,
            "max_bytes": self.max_bytes,
            "duplicate_window": min(DUPLICATE_WINDOW_NS, self.max_age_ns or DUPLICATE_WINDOW_NS),
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
            "num_replicas": self.replicas,
        }


def ensure_bucket(js: JetStream, bucket: BucketConfig, *, create: bool) -> StreamInfo:
    """The bucket's stream, made if it is missing and ``create``. One that is there keeps its
    limits.

    Raises StreamMissing, StreamConflict for a stream of its name that is no bucket, and what
    JetStream's requests raise.
    """
    info = js.stream_info(bucket.stream)
    if info is None and not create:
        raise StreamMissing(
            f"there is no bucket {bucket.name} and --no-create-streams was given: make it with "
            f"`nats kv add {bucket.name} --ttl {bucket.max_age_ns // 10**9}s`"
        )
    if info is None:
        try:
            info = js.create_stream(bucket.api_config())
        except JetStreamError as error:
            if error.err_code != NAME_IN_USE:
                raise
            info = js.stream_info(bucket.stream)  # somebody else was faster
    if info is None or f"$KV.{bucket.name}.>" not in info.subjects:
        raise StreamConflict(f"stream {bucket.stream} is no key-value bucket: give another name")
    return info
