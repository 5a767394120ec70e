"""JetStream as the replicas see it: streams, and a network that stalls, loses and repeats nothing.

What was sent on a connection that was given up may be stored later, or never. Answers are lost, or
say neither yes nor no. Readers may see an old end of a stream.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from replication.simulated_clock import Clock
from replication.simulated_input import Events, Input
from replication.simulated_judge import Judge

from alarmdigest.replication.leadership import LastElection, Refused, Stored, Unknown
from alarmdigest.replication.membership import Beat

# A digest: its id. A leader message: 0.
ELECTION = 0
REFUSED = Refused()
UNKNOWN = Unknown()
Digests = list[tuple[int, Events]]


class Reader(Protocol):
    """A process, as far as streams push to it."""

    index: int
    beats_under_way: bool

    def leader_message_seen(self, sequence: int, nonce: str) -> None: ...
    def beats_seen(self) -> None: ...


class JetStream:
    """``output`` holds ids by place, place 0 unused; ``elections`` are places and nonces."""

    def __init__(self, clock: Clock, rng: Random, history: Input, judge: Judge) -> None:
        self.clock = clock
        self.rng = rng
        self.input = history
        self.judge = judge
        self.output = [0]
        self.output_times = [0.0]
        self.elections: list[tuple[int, str]] = [(0, "")]
        self.beats: dict[str, tuple[int, Beat]] = {}
        self.beat_count = 0
        self.full = False
        self.readers: list[Reader] = []
        # For each replica: how far behind its server is, in seconds.
        self.lags: dict[int, float] = {}

    @property
    def end(self) -> int:
        return len(self.output) - 1

    # -- what a server does when a message arrives -------------------------------------------------

    def store_digests(self, batch: Digests, token: int) -> Stored | Refused | Unknown:
        """An atomic batch: all of it or nothing."""
        if self.full:
            return UNKNOWN
        if not self.passes(token):
            return REFUSED
        for id, body in batch:
            self.store_digest(id, body)
        return Stored(self.end)

    def passes(self, token: int) -> bool:
        """The fence."""
        return token == self.elections[-1][0]

    def store_digest(self, id: int, body: Events) -> None:
        self.judge.stored(id, body, len(self.output))
        self.output.append(id)
        self.output_times.append(self.clock.now)

    def store_election(self, nonce: str, expected: int | None) -> Stored | Refused | Unknown:
        if self.full:
            return UNKNOWN
        if expected is not None and expected != self.elections[-1][0]:
            return REFUSED
        self.output.append(ELECTION)
        self.output_times.append(self.clock.now)
        place = self.end
        self.elections.append((place, nonce))
        self.judge.elections += 1
        for reader in self.readers:
            self.clock.at(
                self.clock.now + self.delivery(reader.index),
                reader.leader_message_seen,
                place,
                nonce,
            )
        return Stored(place)

    def remove_output(self, through: int) -> None:
        """In order, as limits do; a fence goes with its message."""
        if 0 < self.elections[-1][0] <= through:
            self.elections.append((0, ""))

    def last_election(self, stale: bool) -> LastElection:
        """``stale``: asked of one that does not know yet that it is not the stream's leader."""
        known = self.elections
        return LastElection(*(known[-1] if not stale else self.rng.choice(known[-3:])))

    def store_beat(self, beat: Beat) -> None:
        self.beat_count += 1
        self.beats[beat.name] = (self.beat_count, beat)
        for reader in self.readers:
            if not reader.beats_under_way:
                reader.beats_under_way = True
                self.clock.at(self.clock.now + self.delivery(reader.index), reader.beats_seen)

    # -- what a reader sees ------------------------------------------------------------------------

    def delivery(self, index: int) -> float:
        return self.lags.get(index, 0.0) + 0.001 + 0.003 * self.rng.random()

    def input_seen(self, index: int) -> int:
        """The end of the input, as replica ``index`` sees it."""
        return bisect_right(self.input.times, self.clock.now - self.lags.get(index, 0.001)) - 1

    def output_seen(self, index: int) -> int:
        return bisect_right(self.output_times, self.clock.now - self.lags.get(index, 0.001)) - 1


class Trouble:
    """How often a message meets trouble; all 0: never."""

    __slots__ = ("lost_answer", "neither", "stale", "stall")

    def __init__(self, rng: Random | None = None) -> None:
        level = (0.0, 0.0, 0.02, 0.1, 0.3)
        self.stall = rng.choice(level) if rng else 0.0
        self.lost_answer = rng.choice(level) if rng else 0.0
        self.neither = rng.choice(level) if rng else 0.0
        self.stale = rng.choice((0.0, 0.3, 0.8)) if rng else 0.0


class Connection:
    """In order, and unreliable. Given up: no answer comes any more, what was sent still may.

    ``out_until`` and ``in_until``: cut off in one direction until then.
    """

    __slots__ = ("_arrives", "given_up", "jetstream", "trouble", "way")

    def __init__(self, jetstream: JetStream, way: Way) -> None:
        self.jetstream = jetstream
        self.way = way
        self.given_up = False
        self._arrives = 0.0

    def send(self, reply: Callable[[Any], None] | None, operation: str, *arguments: Any) -> None:
        jetstream, way = self.jetstream, self.way
        now = jetstream.clock.now
        rng = jetstream.rng
        arrives = max(now, way.out_until) + 0.0003 + 0.002 * rng.random()
        if way.trouble.stall and rng.random() < way.trouble.stall:
            arrives += min(rng.expovariate(0.8), 5.0)
        self._arrives = arrives = max(arrives, self._arrives)
        jetstream.clock.at(arrives, self._arrive, reply, operation, arguments)

    def _arrive(
        self, reply: Callable[[Any], None] | None, operation: str, arguments: tuple[Any, ...]
    ) -> None:
        jetstream, way, rng = self.jetstream, self.way, self.jetstream.rng
        now, trouble = jetstream.clock.now, way.trouble
        if now < way.servers.stalled_until:
            jetstream.clock.at(way.servers.stalled_until, self._arrive, reply, operation, arguments)
            return
        if self.given_up and rng.random() < way.loss:
            return
        neither = reply is not None and trouble.neither and rng.random() < trouble.neither
        if neither and rng.random() < 0.5:
            answer: object = UNKNOWN
        else:
            if operation == "last_election":
                arguments = (bool(trouble.stale) and rng.random() < trouble.stale,)
            answer = getattr(jetstream, operation)(*arguments)
            if neither:
                answer = UNKNOWN
        if reply is None or (trouble.lost_answer and rng.random() < trouble.lost_answer):
            return
        back = max(now, way.in_until) + 0.0003 + 0.002 * rng.random()
        jetstream.clock.at(back, self._answer, reply, answer)

    def _answer(self, reply: Callable[[Any], None], answer: object) -> None:
        if not self.given_up:
            reply(answer)


class Servers:
    __slots__ = ("stalled_until",)

    def __init__(self) -> None:
        self.stalled_until = 0.0


class Way:
    """From one machine to the servers and back; all connections of a replica take it."""

    __slots__ = ("in_until", "loss", "out_until", "servers", "trouble")

    def __init__(self, servers: Servers, trouble: Trouble, loss: float) -> None:
        self.servers = servers
        self.trouble = trouble
        self.loss = loss
        self.out_until = 0.0
        self.in_until = 0.0
