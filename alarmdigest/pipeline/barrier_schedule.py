"""When the listener sends a barrier, and of which kind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.replication.membership import WORD_PAUSE_S
from alarmdigest.settings import Settings
from alarmdigest.state.position import StreamPosition
from alarmdigest.store.base import Store

Kind: TypeAlias = Literal["checkpoint", "progress"]

# Also without any message there is something to write now and then: alarms are forgotten.
IDLE_CHECKPOINT_S = 10.0
# Barriers of no checkpoint on their way at once.
MAX_PROGRESS_BARRIERS = 16


class BarrierSchedule:
    """One checkpoint is on its way at a time. In a group there are further barriers, of no
    checkpoint, which tell how far everything is made and confirmed: for the leader's word.

    ``newest`` is the newest barrier of a checkpoint.
    """

    def __init__(
        self,
        checkpoint_interval_s: float,
        progress_interval_s: float | None,
        wants_all_rows: Callable[[], bool],
    ) -> None:
        """``progress_interval_s`` is None outside a group. ``wants_all_rows``: whether the next
        checkpoint is to be of all rows."""
        self.newest: Barrier | None = None
        self._checkpoint_interval_s = checkpoint_interval_s
        self._progress_interval_s = progress_interval_s
        self._wants_all_rows = wants_all_rows
        self._of_progress: deque[Barrier] = deque()
        self._number = 0
        self._checkpoint_at = self._any_at = time.monotonic()
        self._inputs_at_checkpoint = self._inputs_at_any = 0

    @classmethod
    def of(cls, settings: Settings, store: Store) -> BarrierSchedule:
        return cls(
            settings.checkpoint_interval.seconds,
            WORD_PAUSE_S if settings.group else None,
            wants_all_rows=lambda: store.wants_all_rows,
        )

    @property
    def may_checkpoint(self) -> bool:
        """False while a checkpoint is on its way."""
        return self.newest is None or self.newest.done.is_set()

    def due(self, inputs_read: int) -> Kind | None:
        """``inputs_read``: events, requests and users to forget that were read so far, rejected
        ones included."""
        now = time.monotonic()
        since = now - self._checkpoint_at
        something_new = inputs_read != self._inputs_at_checkpoint or since >= IDLE_CHECKPOINT_S
        if since >= self._checkpoint_interval_s and something_new and self.may_checkpoint:
            return "checkpoint"
        if self._progress_interval_s is None or now - self._any_at < self._progress_interval_s:
            return None
        while self._of_progress and self._of_progress[0].done.is_set():
            self._of_progress.popleft()
        new = inputs_read != self._inputs_at_any and len(self._of_progress) < MAX_PROGRESS_BARRIERS
        return "progress" if new else None

    def make(
        self, kind: Kind, position: StreamPosition | None, arrival_ns: int, inputs_read: int
    ) -> Barrier:
        self._number += 1
        of_checkpoint = kind == "checkpoint"
        barrier = Barrier(
            self._number,
            position,
            arrival_ns,
            of_checkpoint=of_checkpoint,
            of_all_rows=of_checkpoint and self._wants_all_rows(),
        )
        self._any_at = time.monotonic()
        self._inputs_at_any = inputs_read
        if kind == "checkpoint":
            self.newest = barrier
            self._checkpoint_at, self._inputs_at_checkpoint = self._any_at, inputs_read
        else:
            self._of_progress.append(barrier)
        return barrier
