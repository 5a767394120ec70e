"""Prints what happens in one schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replication.schedule import Parts, Schedule
from replication.simulated_judge import Violation

OF_THE_SERVER = ("store_digests", "store_election", "last_election", "remove_output")
OF_A_PROCESS = (
    *("_pose", "_asked_for_all", "batch_answered", "reconnect", "leader_message_seen"),
    *("_resign", "compare", "resume", "end"),
)
OF_THE_JUDGE = ("spoken", "finished")


def trace(seed: int, parts: Parts) -> int:
    """1 where a promise was broken."""

    class TracedJetStream(parts.jetstream):  # type: ignore[misc,name-defined]
        pass

    class TracedProcess(parts.process):  # type: ignore[misc,name-defined]
        pass

    schedule: Schedule | None = None

    def wrap(owner: Any, name: str, who: Callable[[Any], str]) -> None:
        original = getattr(owner, name)

        def traced(this: Any, *arguments: Any) -> Any:
            told = ", ".join(str(argument) for argument in arguments)
            result = original(this, *arguments)
            answer = "" if result is None else f" -> {result}"
            if schedule is not None:
                print(f"{schedule.clock.now:9.4f} {who(this):12} {name.strip('_')}({told}){answer}")
            return result

        setattr(owner, name, traced)

    for name in OF_THE_SERVER:
        wrap(TracedJetStream, name, lambda _: "server")
    for name in OF_A_PROCESS:
        wrap(TracedProcess, name, lambda process: f"{process.incarnation}")
    schedule = Schedule(seed, Parts(TracedProcess, TracedJetStream))
    judge = schedule.judge
    for name in OF_THE_JUDGE:
        bound = getattr(judge, name)
        wrap_bound(judge, name, bound, schedule)
    try:
        schedule.run()
    except Violation as violation:
        print(f"{schedule.clock.now:9.4f} {violation}")
        return 1
    return 0


def wrap_bound(judge: Any, name: str, bound: Any, schedule: Schedule) -> None:
    def traced(*arguments: Any) -> None:
        told = ", ".join(str(argument) for argument in arguments)
        print(f"{schedule.clock.now:9.4f} {'judge':12} {name}({told})")
        bound(*arguments)

    setattr(judge, name, traced)
