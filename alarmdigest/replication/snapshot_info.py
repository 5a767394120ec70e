"""What the metadata of a snapshot say: which checkpoint it holds, and who may go on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alarmdigest import __version__
from alarmdigest._ext import timestamps
from alarmdigest.nats.object_info import ObjectInfo
from alarmdigest.replication.content import content_text
from alarmdigest.store.base import Checkpoint
from alarmdigest.store.lmdb.folder import VERSION

FORMAT = "lmdb"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """``sequence`` and ``timestamp_ns`` are of the last message of ``stream`` that it knows;
    ``size`` in bytes and ``stored_at_ns``, by the server's clock, are 0 before it is written.
    ``about`` is whatever else was noted."""

    group: str
    stream: str
    sequence: int
    timestamp_ns: int
    arrival_ns: int
    settings: dict[str, int]
    checkpoint: int
    blocks: int
    written_at_ns: int
    version: str = __version__
    format: str = f"{FORMAT} {VERSION}"
    about: dict[str, str] = field(default_factory=dict)
    size: int = 0
    stored_at_ns: int = 0

    @classmethod
    def of(cls, group: str, checkpoint: Checkpoint, about: Mapping[str, str]) -> SnapshotInfo:
        """Of a store at this checkpoint. Raises ValueError for one of core mode."""
        position = checkpoint.position
        if position is None:
            raise ValueError("a store of core mode has no place in a stream to go on from")
        return cls(
            group=group,
            stream=position.stream,
            sequence=position.sequence,
            timestamp_ns=position.timestamp_ns,
            arrival_ns=checkpoint.arrival_ns,
            settings=checkpoint.settings,
            checkpoint=checkpoint.number,
            blocks=checkpoint.blocks,
            written_at_ns=checkpoint.written_at_ns,
            about=dict(about),
        )

    @classmethod
    def from_object(cls, info: ObjectInfo) -> SnapshotInfo:
        """Raises ValueError for an object that is no snapshot."""
        told = dict(info.metadata)
        try:
            settings = json.loads(told.pop("settings"))
            found = cls(
                group=told.pop("group"),
                stream=told.pop("stream"),
                sequence=int(told.pop("sequence")),
                timestamp_ns=timestamps.to_ns(told.pop("timestamp")),
                arrival_ns=timestamps.to_ns(told.pop("arrival")),
                settings=settings,
                checkpoint=int(told.pop("checkpoint")),
                blocks=int(told.pop("blocks")),
                written_at_ns=timestamps.to_ns(told.pop("written_at")),
                version=told.pop("version"),
                format=told.pop("format"),
                about=told,
                size=info.size,
                stored_at_ns=info.mtime_ns,
            )
        except KeyError as error:
            raise ValueError(f"its metadata lack {error}: it is no snapshot") from error
        except ValueError as error:
            raise ValueError(f"its metadata cannot be understood: {error}") from error
        if not isinstance(settings, dict):
            raise ValueError("its metadata cannot be understood: settings is an object")
        return found

    @property
    def name(self) -> str:
        """That of its object: sorted by name, a group's snapshots are sorted by sequence."""
        written_at = timestamps.to_text(self.written_at_ns)
        return f"{self.group}.{self.sequence:020}.{written_at}"

    @property
    def format_is_known(self) -> bool:
        name, _, version = self.format.partition(" ")
        return name == FORMAT and version.isdigit() and 1 <= int(version) <= VERSION

    def told(self) -> dict[str, Any]:
        """What it says about the checkpoint."""
        return {
            "group": self.group,
            "stream": self.stream,
            "sequence": str(self.sequence),
            "timestamp": timestamps.to_text(self.timestamp_ns),
            "arrival": timestamps.to_text(self.arrival_ns),
            "settings": json.dumps(self.settings, sort_keys=True),
            "checkpoint": str(self.checkpoint),
            "blocks": str(self.blocks),
            "written_at": timestamps.to_text(self.written_at_ns),
        }

    def to_metadata(self) -> dict[str, str]:
        return {**self.about, **self.told(), "version": self.version, "format": self.format}

    def differing(self, settings: Mapping[str, int]) -> str:
        """The settings that are other ones here, both values; empty if all agree."""
        names = sorted(self.settings.keys() | settings.keys())
        return ", ".join(
            f"{name} {content_text(name, self.settings.get(name))}, "
            f"not {content_text(name, settings.get(name))}"
            for name in names
            if self.settings.get(name) != settings.get(name)
        )
