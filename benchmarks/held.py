"""Services that hold the alarms of a population, side by side, and what is measured of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random

from load import publisher
from population import Population, later
from rig import WORKERS, Round, Service, nats_server, the_end, timed
from support.service import memory
from support.wait import eventually

ROUNDS, CHECKPOINTS = 3, 2
KNOWN, TIMES = 100_000, 3  # so many alarms change, each so often, unless ids are long
LONG_ID_BYTES = 256
CHANGED = 20_000  # for one checkpoint, or two: the first message of a burst brings one
QUIET_S = 1.6  # longer than from one to the next, as long as there is something to write
WRITES = 'alarmdigest_checkpoint_stage_seconds_{}{{stage="write"}}'

Pick = Callable[[Population, int], list[int]]


@dataclass
class Found:
    """What was measured at one point of an axis."""

    population: Population
    rates: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    checkpoints: list[float] = field(default_factory=list)
    process_bytes: float = 0.0
    book_bytes: float = 0.0

    @property
    def rate(self) -> float:
        """Events a second."""
        return statistics.median(self.rates)

    @property
    def cpu(self) -> float:
        """µs an event."""
        return statistics.median(self.cpus)

    @property
    def checkpoint(self) -> float:
        """ms for 1,000 changed alarms; the shorter, since others use the disk, too."""
        return min(self.checkpoints)


class Held:
    """A service on a server of its own, which holds the alarms of a population."""

    def __init__(self, stack: ExitStack, population: Population) -> None:
        self.population = population
        self._server = stack.enter_context(nats_server())
        self.process = Service(stack, self._server).process
        self._seconds, self._minutes = count(), count(1)
        self._events = 0
        # What comes with the first traffic, and stays, is no part of an alarm.
        warm = Population(20, 25, population.id_bytes)
        for chunk in warm.first():
            self.send(chunk, warm.total)
        self.send_newer(warm.newer(warm.at_random(KNOWN)), KNOWN)
        self._idle = memory(self.process)

    def send(self, frames: bytes, events: int) -> Round:
        """Publish them; until they are merged."""
        self._events += events + WORKERS
        end = the_end(second=next(self._seconds))
        with ExitStack() as stack:
            service = Service(stack, self._server, running=self.process)
            return timed(stack.enter_context(publisher(self._server.url, [frames, end])), service)

    def send_newer(self, frames: bytes, events: int) -> Round:
        return self.send(later(frames, next(self._minutes)), events)

    def fill(self) -> None:
        for chunk in self.population.first():
            self.send(chunk, chunk.count(b"PUB "))
        assert self.process.metric("alarmdigest_alarms") >= self.population.total

    def is_quiet(self) -> bool:
        """Whether all is in the store: as long as there is something, it is written each second."""
        return self.process.metric("alarmdigest_checkpoint_age_seconds") > QUIET_S

    def seconds_written(self) -> float:
        return self.process.metric(WRITES.format("sum"))

    def checkpoints(self) -> float:
        return self.process.metric(WRITES.format("count"))

    def note_memory(self, found: Found) -> None:
        """In bytes an alarm: of the process, above what it took at rest, and of the books alone."""
        total = self.population.total
        found.process_bytes = (memory(self.process) - self._idle) / total
        found.book_bytes = self.process.metric("alarmdigest_book_bytes") / total

    def assert_nothing_is_lost(self) -> None:
        assert self.process.metric("alarmdigest_book_events_total") == self._events
        assert self.process.metric('alarmdigest_dropped_total{kind="event"}') == 0


@contextmanager
def filled(populations: Sequence[Population]) -> Iterator[list[Held]]:
    with ExitStack() as stack:
        held = [Held(stack, population) for population in populations]
        for one in held:
            one.fill()
        yield held
        for one in held:
            one.assert_nothing_is_lost()


def wait_until_quiet(held: Sequence[Held]) -> None:
    for one in held:
        eventually(one.is_quiet, timeout=60, interval=0.1, what="everything in the store")


def measured(held: Sequence[Held], pick: Pick) -> list[Found]:
    """Events a second and checkpoints, with the alarms that ``pick`` chooses."""
    found = [Found(one.population) for one in held]
    for one, point in zip(held, found, strict=True):
        known = pick(one.population, KNOWN)
        times = 1 if one.population.id_bytes > LONG_ID_BYTES else TIMES * KNOWN // len(known)
        numbers = known * times
        Random(1).shuffle(numbers)
        load = one.population.newer(numbers)
        wait_until_quiet(held)
        for _ in range(ROUNDS):
            played = one.send_newer(load, len(numbers))
            point.rates.append(len(numbers) / played.seconds)
            point.cpus.append(played.cpu_seconds / len(numbers) * 1e6)
    picked = [pick(one.population, CHANGED) for one in held]
    changes = [one.population.newer(chosen) for one, chosen in zip(held, picked, strict=True)]
    for _ in range(CHECKPOINTS):
        wait_until_quiet(held)
        before = [(one.checkpoints(), one.seconds_written()) for one in held]
        for one, change, chosen in zip(held, changes, picked, strict=True):
            one.send_newer(change, len(chosen))
        for one, point, chosen, (checkpoints, written) in zip(
            held, found, picked, before, strict=True
        ):
            eventually(lambda: one.checkpoints() > checkpoints, what="a checkpoint")  # noqa: B023
            wait_until_quiet([one])
            point.checkpoints.append((one.seconds_written() - written) * 1e6 / len(chosen))
    return found


def note_memory(held: Sequence[Held], found: Sequence[Found]) -> None:
    """What only a large checkpoint needed is given back with the next small one."""
    for one in held:
        one.send(b"", 0)
    wait_until_quiet(held)
    for one, point in zip(held, found, strict=True):
        one.note_memory(point)
