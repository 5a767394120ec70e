"""A message on its way, and when its digests may be acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from alarmdigest.connect.deliver.digests import Digest


@dataclass(slots=True, eq=False)
class Delivery:
    """Digests that became one message. ``left`` is how many targets it has still to reach, or to
    be given up for; ``told_through`` what its user knows once he has it."""

    user_id: str
    parts: Sequence[Digest]
    told_through: int | None = None
    left: int = 0
    sent: int = 0

    @property
    def made_ns(self) -> int:
        """When the first of its digests was stored."""
        return self.parts[0].at_ns


@dataclass(slots=True)
class Held:
    """Everything that is delivered to us and not acknowledged, by its sequence."""

    digests: dict[int, Digest] = field(default_factory=dict)
    size: int = 0

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, digest: Digest) -> None:
        self.digests[digest.sequence] = digest
        self.size += len(digest.body)

    def add_weight(self, digest: Digest, count: int) -> None:
        """Of the message that was made of it."""
        if self.digests.get(digest.sequence) is digest:
            digest.weight += count
            self.size += count

    def remove(self, parts: Sequence[Digest]) -> list[bytes]:
        """Where to acknowledge those of them that we still hold."""
        replies = []
        for part in parts:
            if self.digests.get(part.sequence) is part:
                del self.digests[part.sequence]
                self.size -= len(part.body) + part.weight
                replies.append(part.reply)
        return replies

    def clear(self) -> None:
        self.digests.clear()
        self.size = 0
