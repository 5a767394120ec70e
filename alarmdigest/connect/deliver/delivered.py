"""Which digest went to whom, in the bucket ALARM_DELIVERED, so that none is sent again.

The key is made of the digest's id and of the filled URL, as hashes: the bucket holds no secret.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import orjson

from alarmdigest._ext import timestamps
from alarmdigest.connect.buckets import BucketConfig
from alarmdigest.connect.deliver.consumer import DigestJetStream
from alarmdigest.connect.deliver.digests import Digest, key_of_id
from alarmdigest.connect.publishing import Outgoing

SENT, DEAD = "sent", "dead"


class Delivered:
    def __init__(self, bucket: BucketConfig) -> None:
        self._bucket = bucket

    def entry(self, digest_id: str, address: str, target: str, outcome: str) -> Outgoing:
        """That a digest was sent now, or is a dead letter; ``history`` reads it, too."""
        fields = {"target": target, "outcome": outcome, "at": timestamps.to_text(time.time_ns())}
        subject = self._bucket.subject(self._key(digest_id, address))
        return Outgoing(self._bucket.stream, subject, orjson.dumps(fields))

    def missing(
        self, js: DigestJetStream, parts: Sequence[Digest], addresses: Sequence[str]
    ) -> dict[str, list[Digest]]:
        """For each address the parts that were not settled there, in order. Raises what requests
        raise."""
        prefix = f"$KV.{self._bucket.name}."
        asked = {
            (part.digest_id, address): prefix + self._key(part.digest_id, address)
            for address in addresses
            for part in parts
            if part.again
        }
        known = js.entries(self._bucket.stream, list(asked.values()), all_of_them=True)
        return {
            address: [
                part for part in parts if asked.get((part.digest_id, address), "") not in known
            ]
            for address in addresses
        }

    def was_sent(self, js: DigestJetStream, parts: Sequence[Digest], address: str) -> bool:
        """Whether all of them were taken there. Raises what requests raise."""
        prefix = f"$KV.{self._bucket.name}."
        keys = [prefix + self._key(part.digest_id, address) for part in parts]
        known = js.entries(self._bucket.stream, keys, all_of_them=True)
        return all(key in known and _outcome(known[key].payload) == SENT for key in keys)

    def _key(self, digest_id: str, address: str) -> str:
        hashed = hashlib.sha256(address.encode()).hexdigest()[:32]
        return f"{key_of_id(digest_id)}.{hashed}"


def _outcome(body: bytes) -> str:
    """Empty for what is none: anybody who may can write there."""
    try:
        return str(orjson.loads(body)["outcome"])
    except (ValueError, KeyError, TypeError):
        return ""
