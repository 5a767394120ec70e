"""Whether anything bends upward with more alarms, more users or longer ids; each alone.

What is sent is the same at each point: newer events of 100,000 known alarms for events a second, of
20,000 for a checkpoint; 25 neighbours here, 25 there. In core mode, and made beforehand. On the
axis of alarms it is done once more with alarms picked at random: the more there are, the fewer of
them share a row that a checkpoint writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from held import Found, filled, measured, note_memory
from population import Population
from report import Report

GROUP = "growth"
ALARMS = [10_000, 100_000, 1_000_000, 10_000_000]
USERS = [1, 100, 10_000, 1_000_000]
ID_BYTES = [8, 36, 128, 1024]
NEIGHBOURS, AT_RANDOM = "25 neighbours here and there", "picked at random"
SPEEDS: list[tuple[str, Callable[[Found], float]]] = [
    ("events/s", lambda one: one.rate),
    ("CPU, µs an event", lambda one: one.cpu),
    ("checkpoint, ms\nfor 1,000 changed alarms", lambda one: one.checkpoint),
]
MEMORY: list[tuple[str, Callable[[Found], float]]] = [
    ("the process, above rest", lambda one: one.process_bytes),
    ("the alarm books alone", lambda one: one.book_bytes),
]


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def draw_speeds(
    report: Report, axis: str, places: Sequence[int], found: Sequence[Found], line: str = ""
) -> None:
    for measure, value in SPEEDS:
        points = [(float(x), value(one)) for x, one in zip(places, found, strict=True)]
        report.curve(GROUP, measure, axis, line, points)


def draw_memory(report: Report, axis: str, places: Sequence[int], found: Sequence[Found]) -> None:
    for line, value in MEMORY:
        points = [(float(x), value(one)) for x, one in zip(places, found, strict=True)]
        report.curve(GROUP, "bytes an alarm", axis, line, points)


def no_larger(
    report: Report, what: str, value: float, unit: str, than: float, name: str, target: str
) -> None:
    """A row for a figure beside the same one at the point of this name."""
    ratio = value / than
    report.row(GROUP, what, value, unit, ratio=ratio, reference=name, target=target, better="less")


def test_alarms(benchmark: Any, report: Report) -> None:
    """25 a user, ids of 36 characters."""
    numbers = [one for one in ALARMS if one < 10_000_000 or available_bytes() > 8e9]
    found: list[Found] = []
    at_random: list[Found] = []

    def measure() -> None:
        with filled([Population(number // 25, 25) for number in numbers]) as held:
            found.extend(measured(held, Population.neighbours))
            at_random.extend(measured(held, Population.at_random))
            note_memory(held, found)

    benchmark.pedantic(measure, rounds=1)
    draw_speeds(report, "alarms", numbers, found, NEIGHBOURS)
    draw_speeds(report, "alarms", numbers, at_random, AT_RANDOM)
    draw_memory(report, "alarms", numbers, found)
    (few, many), largest, name = (found[1], found[-1]), f"{numbers[-1]:,} alarms", "with 100,000"
    report.row(
        "memory",
        f"events merged, with {largest}",
        many.rate,
        "/s",
        ratio=many.rate / few.rate,
        reference=name,
        target=">= 0.85",
    )
    no_larger(report, f"CPU an event, {largest}", many.cpu, "µs", few.cpu, name, "<= 1.5")
    no_larger(
        report,
        f"checkpoint of 1,000 changed, {largest}",
        many.checkpoint,
        "ms",
        few.checkpoint,
        name,
        "<= 2",
    )
    no_larger(
        report,
        f"memory, {largest}",
        many.process_bytes,
        "bytes an alarm",
        few.process_bytes,
        name,
        "<= 1",
    )
    few, many = at_random[1], at_random[-1]
    no_larger(report, "CPU an event, picked at random", many.cpu, "µs", few.cpu, name, "<= 1.5")
    no_larger(
        report,
        "checkpoint of 1,000 changed, picked at random",
        many.checkpoint,
        "ms",
        few.checkpoint,
        name,
        "",
    )


def test_users(benchmark: Any, report: Report) -> None:
    """A million alarms, from those of one user, all on one worker, to those of a million users."""
    found: list[Found] = []

    def measure() -> None:
        with filled([Population(users, 1_000_000 // users) for users in USERS]) as held:
            found.extend(measured(held, Population.neighbours))
            note_memory(held, found)

    benchmark.pedantic(measure, rounds=1)
    draw_speeds(report, "users of a million alarms", USERS, found)
    draw_memory(report, "users of a million alarms", USERS, found)
    (one, _, some, most), name = found, "10,000 users"
    for point, users in ((one, "1 user"), (most, "1,000,000 users")):
        no_larger(report, f"CPU an event, {users}", point.cpu, "µs", some.cpu, name, "<= 1.5")
    no_larger(
        report,
        "checkpoint of 1,000 changed, 1 user",
        one.checkpoint,
        "ms",
        some.checkpoint,
        name,
        "<= 2",
    )
    # There each alarm is a row.
    no_larger(
        report,
        "checkpoint of 1,000 changed, 1,000,000 users",
        most.checkpoint,
        "ms",
        some.checkpoint,
        name,
        "",
    )
    report.row(
        GROUP,
        "memory, 1,000,000 users, beyond that of their alarms",
        most.process_bytes - some.process_bytes,
        "bytes a user",
        target="<= 200",
        better="less",
    )


def test_lengths_of_ids(benchmark: Any, report: Report) -> None:
    """100,000 alarms, 25 a user. What a byte costs must not grow with the length."""
    found: list[Found] = []

    def measure() -> None:
        with filled([Population(4_000, 25, length) for length in ID_BYTES]) as held:
            found.extend(measured(held, Population.neighbours))
            note_memory(held, found)

    benchmark.pedantic(measure, rounds=1)
    draw_speeds(report, "bytes of an id", ID_BYTES, found)
    draw_memory(report, "bytes of an id", ID_BYTES, found)
    (_, usual, _, longest), name = found, "36"
    event, usual_event = (
        len(one.population.event(b"00000", 0, b"2021-06-07T20:01:00.000000000Z"))
        for one in (longest, usual)
    )
    no_larger(
        report,
        "CPU a byte of an event, ids of 1,024",
        longest.cpu / event * 1000,
        "ns",
        usual.cpu / usual_event * 1000,
        name,
        "<= 1",
    )
    no_larger(
        report,
        "checkpoint of 1,000 changed, for a byte of ids of 1,024",
        longest.checkpoint / 1024 * 1000,
        "µs",
        usual.checkpoint / 36 * 1000,
        name,
        "<= 1",
    )
    no_larger(
        report,
        "memory beside the id, ids of 1,024",
        longest.process_bytes - 1024,
        "bytes an alarm",
        usual.process_bytes - 36,
        name,
        "<= 1.5",
    )
