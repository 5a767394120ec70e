"""The key-value bucket ALARM_SCHEDULES, and the keys in it."""

from __future__ import annotations

from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.detail_keys import user_key

BUCKET = "ALARM_SCHEDULES"
DEFAULT_KEY = "default"
LEASE_KEY = "lease"
#: Stands for all users without an entry of their own.
EVERYBODY = None


def bucket_config(replicas: int, domain: str) -> BucketConfig:
    return BucketConfig(BUCKET, max_age_ns=0, max_bytes=-1, replicas=replicas, domain=domain)


def key_of(user: str | None) -> str:
    return DEFAULT_KEY if user is EVERYBODY else f"user.{user_key(user)}"
