"""One random schedule: replicas, faults, and an end without faults. All of it follows its seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random

from replication.simulated_clock import Clock
from replication.simulated_input import Input
from replication.simulated_jetstream import JetStream, Servers, Trouble, Way
from replication.simulated_judge import Judge, Violation
from replication.simulated_pipeline import NEW, Checkpoint
from replication.simulated_replica import Process

# Without faults, everything is stored and somebody leads within so many (simulated) seconds.
SETTLED_WITHIN_S = 40.0
# No message is on its way for longer than this. Then nobody is elected any more, which is looked at
# for a while in one of so many schedules.
STRAGGLERS_S = 6.0
QUIET_FOR_S = 4.0
QUIET_ONE_IN = 8
LATER_S = 0.7
HANGS_FOR_LONG_S = 100.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the replicas and the servers are made of: a test puts a wrong piece in."""

    process: type[Process] = Process
    jetstream: type[JetStream] = JetStream


class Machine:
    """A replica's folder, its network, and the process that runs there, if any."""

    __slots__ = ("folder", "index", "lives", "priority", "process", "way")

    def __init__(self, index: int, way: Way, priority: int) -> None:
        self.index = index
        self.way = way
        self.priority = priority
        self.folder: Checkpoint | None = None
        self.process: Process | None = None
        self.lives = 0

    def keep(self, checkpoint: Checkpoint) -> None:
        self.folder = checkpoint

    @property
    def through(self) -> int:
        return self.folder.through if self.folder else 0


class Schedule:
    """Build it with a seed and ``run`` it; raises Violation."""

    def __init__(self, seed: int, parts: Parts | None = None) -> None:
        self.seed = seed
        self.parts = parts or Parts()
        self.rng = rng = Random(seed)
        self.clock = Clock()
        self.seconds = rng.choice((1.0, 3.0, 8.0))
        self.input = Input(rng, self.seconds)
        self.judge = Judge(self.input)
        self.jetstream = self.parts.jetstream(self.clock, rng, self.input, self.judge)
        self.servers = Servers()
        self.calm = False
        self.room = rng.choice((1, 2, 4, 12))
        self.window = rng.choice((0, 1, 4, 100))
        count = rng.choice((1, 2, 2, 3, 3, 3))
        loss = rng.choice((0.0, 0.5))
        self.machines = [
            Machine(index, Way(self.servers, Trouble(rng), loss), rng.choice((0, 100, 100, 200)))
            for index in range(count)
        ]
        # Not all are observers.
        self.machines[0].priority = self.machines[0].priority or 100

    def run(self) -> None:
        rng, clock = self.rng, self.clock
        for machine in self.machines:
            clock.at(rng.choice((0.0, 0.5 * rng.random())), self.start, machine)
        if rng.random() < 0.8:
            # The first leader need not be waited for.
            clock.at(0.1 * rng.random(), self.want, self.machines[0], "stand")
        for _ in range(rng.choice((0, 2, 5, 10))):
            clock.at(
                rng.random() * self.seconds, rng.choice(FAULTS), self, rng.choice(self.machines)
            )
        clock.run(self.seconds, _never)
        self.end_faults()
        start = max(clock.now, self.input.times[-1])
        if not clock.run(start + SETTLED_WITHIN_S, self._settled):
            raise Violation(f"after {SETTLED_WITHIN_S:.0f} s without faults: {self._state()}")
        if self.seed % QUIET_ONE_IN == 0:
            clock.run(clock.now + STRAGGLERS_S, _never)
            hanging = [
                one.process
                for one in self.machines
                if one.process is not None and one.process.hangs_until > clock.now - LATER_S
            ]
            calm_until = clock.now + QUIET_FOR_S
            if any(one.leadership.token or one.hangs_until < calm_until for one in hanging):
                return  # another may have reason to lead, or this one goes on with its election
            elections = self.judge.elections
            clock.run(clock.now + QUIET_FOR_S, _never)
            if self.judge.elections > elections:
                count = self.judge.elections - elections
                raise Violation(f"{count} elections in {QUIET_FOR_S:.0f} s without faults")

    # -- processes ---------------------------------------------------------------------------------

    def start(self, machine: Machine) -> None:
        if machine.process is not None:
            return
        machine.lives += 1
        folder = machine.folder
        empty = folder is None and self.input.first > 1
        if folder is None:
            folder = NEW
        process = self.parts.process(
            self.jetstream,
            self.rng,
            machine.index,
            folder,
            machine.way,
            machine.lives,
            empty=empty,
            priority=machine.priority,
        )
        if empty:
            process.read = process.passed = process.checkpointed = self.input.first - 1
        process.room, process.window = self.room, self.window
        process.keep = machine.keep
        process.leave = partial(self.kill, machine)
        machine.process = process
        self.jetstream.readers.append(process)

    def stop(self, machine: Machine) -> None:
        process = machine.process
        if process is not None:
            process.end()
            self.jetstream.readers.remove(process)
            machine.process = None

    def want(self, machine: Machine, what: str) -> None:
        if machine.process is not None:
            machine.process.wants = what

    def resume(self, process: Process) -> None:
        if process.paused:
            process.resume()

    def _restart_later(self, machine: Machine) -> None:
        self.clock.at(self.clock.now + self.rng.expovariate(1 / LATER_S), self.start, machine)

    # -- faults ------------------------------------------------------------------------------------

    def kill(self, machine: Machine) -> None:
        self.stop(machine)
        self._restart_later(machine)

    def snapshot(self, machine: Machine) -> None:
        """Killed; it comes back from another's checkpoint."""
        self.stop(machine)
        folders = [one.folder for one in self.machines if one.folder is not None]
        if folders:
            machine.folder = self.rng.choice(folders)
        self._restart_later(machine)

    def wipe(self, machine: Machine) -> None:
        """Killed, and its folder is gone; the input may be, too, as far as others have read it."""
        others = [one for one in self.machines if one is not machine and not self._empty(one)]
        if not others:
            return
        self.stop(machine)
        machine.folder = None
        if self.rng.random() < 0.7:
            through = min(one.through for one in others)
            self.input.first = max(self.input.first, through + 1)
        self._restart_later(machine)

    def _empty(self, machine: Machine) -> bool:
        return machine.folder is None and self.input.first > 1

    def pause(self, machine: Machine) -> None:
        process = machine.process
        if process is not None:
            process.paused = True
            later = self.clock.now + self.rng.expovariate(1 / (3 * LATER_S))
            self.clock.at(later, self.resume, process)

    def hang(self, machine: Machine) -> None:
        """The thread that publishes stands still, for longer than the rest of the schedule perhaps,
        where others may take over."""
        process, others = machine.process, [one for one in self.machines if one is not machine]
        running = [one.process for one in others if one.process is not None]
        if any(one.hangs_until > self.clock.now for one in running):
            return
        if process is not None and any(one.priority for one in others):
            longest = HANGS_FOR_LONG_S if self.rng.random() < 0.3 else 3 * LATER_S
            process.hangs_until = self.clock.now + longest * self.rng.random()

    def cut_out(self, machine: Machine) -> None:
        machine.way.out_until = self.clock.now + self.rng.expovariate(1 / (2 * LATER_S))

    def cut_in(self, machine: Machine) -> None:
        machine.way.in_until = self.clock.now + self.rng.expovariate(1 / (2 * LATER_S))

    def lag(self, machine: Machine) -> None:
        self.jetstream.lags[machine.index] = self.rng.expovariate(1 / LATER_S)
        later = self.clock.now + self.rng.expovariate(1 / (2 * LATER_S))
        self.clock.at(later, self._caught_up, machine)

    def _caught_up(self, machine: Machine) -> None:
        self.jetstream.lags.pop(machine.index, None)

    def stall(self, machine: Machine) -> None:
        self.servers.stalled_until = self.clock.now + self.rng.expovariate(1 / LATER_S)

    def fill(self, machine: Machine) -> None:
        self.jetstream.full = True
        self.clock.at(self.clock.now + self.rng.expovariate(1 / LATER_S), self._room_again)

    def _room_again(self) -> None:
        self.jetstream.full = False

    def lose_connection(self, machine: Machine) -> None:
        process = machine.process
        if process is not None and not process.paused:
            process.reconnect()

    def stand(self, machine: Machine) -> None:
        """Suspects the leader, wrongly perhaps: safety must not depend on this."""
        self.want(machine, "stand")

    def trim_output(self, machine: Machine) -> None:
        """The stream's limits remove what nobody looks for, the last leader message perhaps."""
        words = [one.folder.word for one in self.machines if one.folder is not None]
        words += [one.process.leadership.word for one in self.machines if one.process is not None]
        if words and all(one.folder is not None for one in self.machines):
            self.jetstream.remove_output(min(word.after for word in words))

    def renew(self, machine: Machine) -> None:
        for one in self.machines:
            if one.process is not None and one.process.leadership.leads:
                one.process.wants = "renew"

    def resign(self, machine: Machine) -> None:
        for one in self.machines:
            if one.process is not None and one.process.leadership.leads:
                one.process.wants = "resign"

    # -- the end -----------------------------------------------------------------------------------

    def end_faults(self) -> None:
        self.calm = True
        self.servers.stalled_until = 0.0
        self.jetstream.full = False
        self.jetstream.lags.clear()
        folders = [one.folder for one in self.machines if one.folder is not None]
        for machine in self.machines:
            machine.way.trouble = Trouble()
            machine.way.out_until = machine.way.in_until = 0.0
            if machine.process is not None and machine.process.paused:
                machine.process.resume()
            if self._empty(machine) and folders:
                self.stop(machine)
                machine.folder = self.rng.choice(folders)
            self.start(machine)

    def _settled(self) -> bool:
        if not self.judge.everything_is_stored:
            return False
        end, last = self.input.length, self.jetstream.elections[-1][0]
        running = [one.process for one in self.machines if one.process is not None]
        if len(running) < len(self.machines):
            return False
        hanging = [one for one in running if self.clock.now < one.hangs_until]
        others = [one for one in running if one not in hanging]
        if any(one.leadership.token and last in (one.leadership.token, 0) for one in hanging):
            # Nobody need take over from it who waits for nothing.
            return not any(one.inflight for one in others)
        if any(one.leadership.word.through < end and not one.empty for one in others):
            return False
        return any(one.leadership.leads and last in (one.leadership.token, 0) for one in others)

    def _state(self) -> str:
        told = []
        for machine in self.machines:
            process = machine.process
            if process is None:
                told.append(f"{machine.index} does not run")
                continue
            role = "leads" if process.leadership.leads else "follows"
            told.append(
                f"{process.name} {role}, read {process.read}, {len(process.inflight)} in flight, "
                f"word {process.leadership.word.through}"
            )
        missing = len(self.input.ids) - len(self.judge.places)
        return f"{missing} digests missing of {len(self.input.ids)}; " + "; ".join(told)


def _never() -> bool:
    return False


FAULTS = (
    *(Schedule.kill, Schedule.kill, Schedule.snapshot, Schedule.wipe, Schedule.pause),
    *(Schedule.cut_out, Schedule.cut_in, Schedule.lag, Schedule.lag, Schedule.stall),
    *(Schedule.fill, Schedule.trim_output, Schedule.lose_connection, Schedule.lose_connection),
    *(Schedule.stand, Schedule.stand, Schedule.stand, Schedule.stand),
    *(Schedule.hang, Schedule.hang),
    *(Schedule.renew, Schedule.renew, Schedule.renew, Schedule.resign),
)


def run(seed: int, parts: Parts | None = None) -> Schedule:
    """Runs the schedule of this seed; a violation tells how to run just that one."""
    schedule = Schedule(seed, parts)
    try:
        schedule.run()
    except Violation as violation:
        raise Violation(
            f"seed {seed}, at {schedule.clock.now:.3f} s: {violation}; this one alone: "
            f".venv/bin/python tests/replication/run_simulation.py --seed {seed} --schedules 1"
        ) from None
    return schedule
