"""What a store is: the state of every alarm book as of one position in the input, and nothing else.

A store holds rows and one checkpoint record, and both always belong together. Rows are opaque
here: blocks of one user's alarms, under keys that begin with the user's bucket.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from types import TracebackType
from typing import Any, TypeVar

from alarmdigest.state.position import (
    UNKNOWN_NS,
    OutputPosition,
    Outputs,
    ReplicaPosition,
    Reread,
    StreamPosition,
)

S = TypeVar("S", bound="Store")

CHUNK = 1 << 20
"""About how many bytes of packed rows a store hands out at a time."""


class StoreError(Exception):
    """The store cannot do what was asked. Says what happened, where, and what to do."""


class StoreInUse(StoreError):
    """Another process has it."""


class NoState(StoreError):
    """Nothing was ever kept there."""


class StoreAway(StoreError):
    """It cannot be reached just now."""


class AllRowsNeeded(StoreError):
    """Nothing was written: the next commit must be of all rows (``Store.commit_all``)."""


class StoreDamaged(StoreError):
    """What is there is not what was written, or not all of it."""


class StoreTooNew(StoreError):
    """A newer version of this program wrote it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a commit says about its rows."""

    number: int
    """Counts up."""
    written_at_ns: int
    position: StreamPosition | None
    """None in core mode, and before a first start has opened its stream."""
    arrival_ns: int
    """The arrival clock: the greatest arrival time of any message so far, ns since 1970. It never
    goes back, except with ``--accept-clock-step``."""
    outputs: Outputs
    """The output position of each output stream: what comes from input after ``position`` is stored
    after it."""
    settings: dict[str, int]
    """The settings that decide content."""
    blocks: int
    """How many rows the store holds after this checkpoint."""
    replica: ReplicaPosition | None = None
    """What a replica of a group keeps."""

    def to_record(self) -> bytes:
        """The bytes that a store keeps: a checksum, a line feed, JSON."""
        fields = asdict(self)
        if self.replica is None:
            del fields["replica"]  # as those that know no groups write it
        # As lists: the first versions wrote two members, without the id.
        fields["outputs"] = {name: astuple(found) for name, found in self.outputs.items()}
        text = json.dumps(fields, sort_keys=True).encode()
        return _checksum(text) + b"\n" + text

    @classmethod
    def from_record(cls, record: bytes) -> Checkpoint:
        """The reverse. Raises ValueError when the bytes are not as ``to_record`` made them."""
        checksum, _, text = record.partition(b"\n")
        if checksum != _checksum(text):
            raise ValueError("the checkpoint record does not match its checksum")
        try:
            fields: dict[str, Any] = json.loads(text)
            if (position := fields["position"]) is not None:
                # Earlier versions did not keep it.
                position.setdefault("stepped_back_ns", UNKNOWN_NS)
                if position.get("reread") is not None:
                    position["reread"] = Reread(*position["reread"])
                fields["position"] = StreamPosition(**position)
            fields["outputs"] = {
                name: OutputPosition(*found) for name, found in fields["outputs"].items()
            }
            if (replica := fields.get("replica")) is not None:
                fields["replica"] = ReplicaPosition(**replica)
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the checkpoint record has other fields: {error}") from error


def _checksum(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


class Store(ABC):
    """All methods belong to one thread at a time; which one may change."""

    last: Checkpoint | None = None
    """The newest checkpoint; known from the opening on, None in a store that has none yet."""

    unfolded_bytes = 0
    """Rows that were committed and are still to be written to where they belong."""

    rewritten = 0
    """How often all rows were written anew, because the store had lost some or asked for it."""

    trouble = ""
    """What it is waiting for in the middle of a commit; empty while all is well."""

    touched_bytes = 0
    """About how much memory the last commit needed, and ``release_memory`` returns."""

    @abstractmethod
    def rows(self) -> Iterator[bytes]:
        """All rows of the last checkpoint, as packed chunks of about a MiB in the order of buckets.

        Raises StoreDamaged, at the latest after the last chunk, when they are not all there and
        as they were written: act on none of them before the end. A commit ends an iteration that
        is still going on.
        """

    @abstractmethod
    def commit(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        """Write these rows over what is there, and the checkpoint with them, and sync.

        ``rows`` are packed chunks; of rows with the same key the last one wins. Raises StoreError
        if it cannot be sure that the data is on disk: then either everything was written or
        nothing, and it may be called again, with more rows or the same. Raises ValueError when the
        chunks do not consist of whole rows.
        """

    def claim(self) -> None:  # noqa: B027 - most are ours once they are open
        """Take it from whoever has it, where opening it was only a look: from then on ``last`` and
        the rows stay as they are. Before it nothing but ``last`` may be used. Raises StoreError,
        and may be called again."""

    @property
    def wants_all_rows(self) -> bool:
        """Whether the next commit had better be of all rows that there are. Only a store that
        others may change, or lose something of, ever asks for that. Any thread may ask."""
        return False

    def share(self, term: Callable[[], int | None]) -> None:  # noqa: B027 - most are not shared
        """For a store that all replicas of a group use: ``term()`` is None while this one does not
        lead, and else greater than that of every leader before."""

    def commit_all(self, rows: Sequence[bytes], checkpoint: Checkpoint) -> None:
        """As ``commit``, of all rows that there are: whatever else the store holds is gone then.
        Only for a store that wants it."""
        raise NotImplementedError

    def tidy_up(self) -> bool:
        """A slice, of some ten milliseconds, of what may be done between two commits; whether there
        is more. Raises StoreError, and may be called again."""
        return False

    def release_memory(self) -> None:  # noqa: B027 - not every store keeps something
        """Return memory that only large commits need; called when there is none for a while."""

    def close(self) -> None:  # noqa: B027 - not every store has something to close
        """Give up the store. May be called again, and nothing else after it."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Reader(ABC):
    """A store of another process, or of none, to be read: as of the last checkpoint. Every method
    raises StoreError."""

    last: Checkpoint | None
    """As in a Store; the rows belong to it, whatever is written meanwhile."""

    @abstractmethod
    def rows(self) -> Iterator[bytes]:
        """As a Store's; may be called again."""

    @abstractmethod
    def rows_below(self, prefix: bytes) -> bytes:
        """The packed rows whose keys begin so, checked."""

    @abstractmethod
    def close(self) -> None:
        """Nothing else may be called after it."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wrong_count(what: str, holds: int, said: int) -> StoreError:
    """A commit whose rows and number do not agree: refused while the last good one is there."""
    return StoreError(
        f"refused to write a checkpoint to {what}: it would hold {holds} rows, the checkpoint says "
        f"{said}. This is a bug of alarmdigest, please report it; the last checkpoint is kept"
    )
