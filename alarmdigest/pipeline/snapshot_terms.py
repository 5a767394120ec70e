"""Whose snapshots are ours, and which of them a start may go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alarmdigest.nats.connection import Connection
from alarmdigest.nats.object_info import BucketConfig
from alarmdigest.nats.object_store import ObjectStore
from alarmdigest.pipeline.group_checks import content_of
from alarmdigest.replication.content import content_text
from alarmdigest.replication.snapshot_info import SnapshotInfo
from alarmdigest.replication.snapshots import BUCKET, Snapshots
from alarmdigest.settings import Settings

# In no group's name, so that a single service and a group never take each other's.
SINGLE = "single:"


@dataclass(frozen=True, slots=True)
class SnapshotTerms:
    """``group`` is whose they are: the group's name, or that of the input stream of a service that
    is alone. ``content_settings`` and ``content`` are what decides what digests hold."""

    group: str
    stream: str
    content_settings: Mapping[str, int]
    content: Mapping[str, Any]

    @classmethod
    def of(cls, settings: Settings, content_settings: Mapping[str, int]) -> SnapshotTerms:
        return cls(
            settings.group or f"{SINGLE}{settings.events_stream}",
            settings.events_stream,
            content_settings,
            content_of(settings, content_settings),
        )

    def about(self, made_by: str) -> dict[str, str]:
        """What we write into the metadata of a snapshot beside what it holds."""
        return {"content": json.dumps(self.content, sort_keys=True), "made_by": made_by}

    def misfit(self, info: SnapshotInfo) -> str:
        """Why what was written there does not suit us; empty if it does."""
        try:
            theirs = json.loads(info.about.get("content", ""))
        except ValueError:
            theirs = None
        if not isinstance(theirs, dict):
            return "it does not say under which settings it was made"
        return ", ".join(
            f"it was made with {name} {content_text(name, theirs.get(name))}, "
            f"not {content_text(name, self.content.get(name))}"
            for name in sorted(theirs.keys() | self.content.keys())
            if theirs.get(name) != self.content.get(name)
        )


def open_bucket(connection: Connection, settings: Settings) -> ObjectStore:
    """The bucket of all snapshots, which need not be there yet."""
    config = BucketConfig(
        BUCKET, max_bytes=settings.snapshots_max_bytes, replicas=settings.stream_replicas
    )
    return ObjectStore(connection, config, domain=settings.js_domain)


def newest(snapshots: Snapshots, terms: SnapshotTerms) -> SnapshotInfo | None:
    """The newest one that a start could go on from, as far as its metadata tell."""
    return snapshots.newest(stream=terms.stream, settings=terms.content_settings, fits=terms.misfit)
