"""Barriers on their way to the publisher. Each comes once from every producer: from all workers,
and from the listener."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from alarmdigest.pipeline.barrier import Barrier
from alarmdigest.state.position import Outputs


@dataclass(slots=True)
class ArrivingBarrier:
    """``outputs`` are the output positions when the first producer brought it."""

    barrier: Barrier
    outputs: Outputs
    producers: int = 0


class ArrivingBarriers:
    """Several may be on their way; every producer brings them in the same order."""

    def __init__(self, producers: int, output_positions: Callable[[], Outputs]) -> None:
        self._producers = producers
        self._output_positions = output_positions
        self._arriving: deque[ArrivingBarrier] = deque()

    def on_barrier(self, barrier: Barrier) -> list[ArrivingBarrier]:
        """Note that one more producer has brought it; the barriers that have come from all of them
        by that."""
        if not self._arriving or self._arriving[-1].barrier.number < barrier.number:
            self._arriving.append(ArrivingBarrier(barrier, self._output_positions()))
        for arriving in self._arriving:
            arriving.producers += arriving.barrier is barrier
        gathered = []
        while self._arriving and self._arriving[0].producers == self._producers:
            gathered.append(self._arriving.popleft())
            if not gathered[-1].barrier.of_checkpoint:
                gathered[-1].barrier.done.set()
        return gathered
