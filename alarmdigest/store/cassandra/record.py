"""The record: the one row that says which checkpoint is valid, and which journals belong to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from uuid import UUID

from alarmdigest.store.base import Checkpoint, StoreDamaged, StoreTooNew

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Journal:
    """Rows of one commit: ``size`` bytes in ``parts`` parts, spread over ``lanes`` partitions;
    ``checksum`` is that of all of them."""

    owner: str
    number: int
    lanes: int
    parts: int
    size: int
    checksum: str
    timestamp: int
    """With which its rows are written to where they belong, in microseconds since 1970."""

    @property
    def owner_id(self) -> UUID:
        return UUID(self.owner)


@dataclass(frozen=True, slots=True)
class Head:
    """What the record says beside its owner. Everything that is valid follows from it.

    ``timestamp`` is the greatest that was ever used. ``folded`` are journals whose rows are all
    where they belong; they are kept for a while, for who is reading the store. ``deleted`` tells
    how many rows of a shard were deleted in this epoch, for the shards that had any.
    ``dead_epochs`` may be deleted whole.
    """

    checkpoint: str = ""
    number: int = 0
    timestamp: int = 0
    epoch: int = 0
    journals: Sequence[Journal] = ()
    folded: Sequence[Journal] = ()
    deleted: dict[int, int] = field(default_factory=dict)
    dead_epochs: Sequence[int] = ()

    def to_bytes(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Head:
        """Raises StoreTooNew and StoreDamaged; ``where`` names the store."""
        try:
            fields = json.loads(data)
            version = fields.pop("format")
            if version > FORMAT:
                raise StoreTooNew(
                    f"{where} was written by a newer alarmdigest (format {version}, this one "
                    f"knows up to {FORMAT}): start that version, or choose another keyspace"
                )
            fields["journals"] = tuple(Journal(**one) for one in fields["journals"])
            fields["folded"] = tuple(Journal(**one) for one in fields["folded"])
            fields["deleted"] = {int(shard): n for shard, n in fields["deleted"].items()}
            fields["dead_epochs"] = tuple(fields["dead_epochs"])
            return cls(**fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise damaged(where, f"its record cannot be understood ({error})") from error

    def last(self, where: str) -> Checkpoint | None:
        """Raises StoreDamaged."""
        if not self.checkpoint:
            return None
        try:
            return Checkpoint.from_record(self.checkpoint.encode())
        except ValueError as error:
            raise damaged(where, str(error)) from error


@dataclass(frozen=True, slots=True)
class Record:
    """The row as it was read. ``prior`` are earlier owners; each may have begun a journal, the one
    after ``head.number``, that no record lists."""

    owner: UUID
    commit: UUID
    term: int
    prior: bytes
    head: Head

    @property
    def begun(self) -> list[tuple[UUID, int]]:
        """The journals that earlier owners may have begun: owner and number."""
        ids = (self.prior[at : at + 16] for at in range(0, len(self.prior), 16))
        return [(UUID(bytes=one), self.head.number + 1) for one in ids]


def damaged(where: str, why: str) -> StoreDamaged:
    return StoreDamaged(
        f"the store in {where} is damaged: {why}. Restore a backup into another keyspace and use "
        "that, or start with an empty one, which reads the input stream from its first message"
    )
