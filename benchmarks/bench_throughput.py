"""Events merged and digests sent per second, beside the fastest that could be done there.

20,000 users with 25 alarms each, published as fast as the server takes them.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from typing import Any

import pytest
from load import events, publisher, redelivered, request, user_id
from report import Report
from rig import (
    WORKERS,
    Play,
    Reference,
    Round,
    Service,
    Subscriber,
    c_subscriber,
    captured,
    cpu,
    nats_server,
    seconds,
    side_by_side,
    the_end,
    timed,
)
from support.raw import frames_of, publish_raw
from support.service import ServiceProcess

USERS, ALARMS = 20_000, 25
EVENTS = USERS * ALARMS
ALL_EVENTS = EVENTS + WORKERS  # with the last words


@pytest.fixture(scope="module")
def load() -> bytes:
    return events(USERS, ALARMS)


def reference(name: str, load: bytes) -> Play:
    """A plain subscriber that counts the events."""

    def play() -> Round:
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            contestant = Reference(stack, name, server.url, ALL_EVENTS)
            return timed(stack.enter_context(publisher(server.url, [load, the_end()])), contestant)

    return play


def rate(rounds: list[Round], count: int = EVENTS) -> float:
    return count / seconds(rounds)


def rates(rounds: list[Round], count: int = EVENTS) -> list[float]:
    return [count / one.seconds for one in rounds]


def test_core(benchmark: Any, report: Report, load: bytes) -> None:
    """Published, decoded, checked and merged; the CPU is what that took, without what the first
    checkpoint takes afterwards."""

    def play() -> Round:
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            service = Service(stack, server)
            go = stack.enter_context(publisher(server.url, [load, the_end()]))
            found = timed(go, service)
            service.assert_merged(ALL_EVENTS)
            return found

    names = {"nats-py, empty callback": "natspy", "bare scanner": "scanner"}
    if c_subscriber() is not None:
        names["C subscriber, empty callback"] = "c"
    ours, others = side_by_side(
        benchmark, play, {name: reference(short, load) for name, short in names.items()}
    )
    targets = {"natspy": ">= 3", "scanner": "", "c": ">= 0.9"}
    picture = "events per second, plain subscriptions"
    report.distribution(picture, "alarmdigest", rates(ours))
    for name, short in names.items():
        report.distribution(picture, name, rates(others[name]))
        report.row(
            "throughput",
            "core, events merged",
            rate(ours),
            "/s",
            ratio=rate(ours) / rate(others[name]),
            reference=name,
            target=targets[short],
        )
    scanner = cpu(others["bare scanner"])
    report.row(
        "throughput",
        "core, CPU of the whole process per event",
        cpu(ours) / EVENTS * 1e6,
        "µs",
        ratio=cpu(ours) / scanner,
        reference="bare scanner",
        better="less",
    )
    report.row(
        "throughput",
        "core, CPU per event, absolute",
        cpu(ours) / EVENTS * 1e6,
        "µs",
        target="<= 0.95",
        better="less",
    )


def test_known_alarms(benchmark: Any, report: Report, load: bytes) -> None:
    """The same events once more, and newer ones of the same alarms, beside the first time."""
    newer = events(USERS, ALARMS, second=1)
    some_twice = redelivered(USERS, ALARMS, 30)
    count_twice = some_twice.count(b"PUB ")
    first: list[Round] = []
    newer_ones: list[Round] = []

    def play() -> Round:
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            service = Service(stack, server)
            played, others = [], 0
            for number, chunk in enumerate((load, load, newer)):
                end = the_end(second=number)
                with publisher(server.url, [chunk, end]) as go:
                    others += service.store_everything()
                    played.append(timed(go, service))
            service.assert_merged(3 * ALL_EVENTS + others)
            first.append(played[0])
            newer_ones.append(played[2])
            return played[1]

    def play_twice() -> Round:
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            service = Service(stack, server)
            go = stack.enter_context(publisher(server.url, [some_twice, the_end()]))
            found = timed(go, service)
            service.assert_merged(count_twice + WORKERS)
            return found

    ours, others = side_by_side(benchmark, play, {"redelivered": play_twice})
    found = {
        "core, the same events once more": rate(ours),
        "core, newer events of known alarms": rate(newer_ones),
        "core, 30 % redelivered": rate(others["redelivered"], count_twice),
    }
    for what, value in found.items():
        report.row(
            "throughput",
            what,
            value,
            "/s",
            ratio=value / rate(first),
            reference="new alarms",
            target=">= 1.0",
        )


def test_stream_live(benchmark: Any, report: Report, load: bytes) -> None:
    """Published, captured, pulled, merged and checkpointed at the same time."""
    run_stream(benchmark, report, load, live=True)


def test_stream_catching_up(benchmark: Any, report: Report, load: bytes) -> None:
    """The stream holds everything when the reader comes back."""
    run_stream(benchmark, report, load, live=False)


def run_stream(benchmark: Any, report: Report, load: bytes, *, live: bool) -> None:
    def ours() -> Round:
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            running = stack.enter_context(ServiceProcess(server.url, mode="stream"))
            go = stack.enter_context(publisher(server.url, [load, the_end()]))
            if live:
                service = Service(stack, server, running=running)
                found = timed(go, service)
            else:
                running.stop()
                subscriber = Subscriber(server.url)
                stack.callback(subscriber.close)
                with captured(server, ALL_EVENTS + WORKERS):
                    go()
                started = time.perf_counter()
                running.start()
                begun = time.perf_counter()
                subscriber.wait_for(WORKERS)
                ended = time.perf_counter()
                # Without the start of the process, which the reference does not count either.
                found = Round(ended - begun)
                starts.append(ended - started)
                service = Service(stack, server, running=running)
            service.assert_merged(ALL_EVENTS)
            return found

    def puller() -> Round:
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            with ServiceProcess(server.url, mode="stream") as maker:  # it makes the streams
                maker.stop()
            go = stack.enter_context(publisher(server.url, [load, the_end()]))
            count = ALL_EVENTS + WORKERS  # requests too
            if live:
                return timed(go, Reference(stack, "puller", server.url, count))
            with captured(server, count):
                go()
            contestant = Reference(stack, "puller", server.url, count)
            return timed(lambda: None, contestant)

    def capture() -> Round:
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            with ServiceProcess(server.url, mode="stream") as maker:
                maker.stop()
            go = stack.enter_context(publisher(server.url, [load, the_end()]))
            started = time.perf_counter()
            with captured(server, ALL_EVENTS + WORKERS):
                go()
            return Round(time.perf_counter() - started)

    starts: list[float] = []
    references: dict[str, Play] = {"bare pull reader": puller}
    if live:
        references["capture alone"] = capture
    mine, others = side_by_side(benchmark, ours, references)
    name = "live" if live else "catching up"
    picture = f"events per second, stream, {name}"
    report.distribution(picture, "alarmdigest", rates(mine))
    for other, rounds in others.items():
        report.distribution(picture, other, rates(rounds))
    target = ">= 0.92" if live else ">= 0.8"
    report.row(
        "throughput",
        f"stream, {name}",
        rate(mine),
        "/s",
        ratio=rate(mine) / rate(others["bare pull reader"]),
        reference="bare pull reader",
        target=target,
    )
    if live:
        report.row(
            "throughput", "stream, captured, nobody reads", rate(others["capture alone"]), "/s"
        )


@pytest.mark.parametrize("mode", ["core", "stream"])
def test_digests(benchmark: Any, report: Report, mode: str, load: bytes) -> None:
    """A request for each user; digests of 25 alarms, until the last of them is received."""
    requests = frames_of(request(user_id(user)) for user in range(USERS))
    made: list[bytes] = []

    def ours() -> Round:
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            service = Service(stack, server, mode)
            with publisher(server.url, [load, the_end()]) as go:
                timed(go, service)
            go = stack.enter_context(publisher(server.url, [requests]))
            started = time.perf_counter()
            go()
            bodies = service.subscriber.collect(USERS)
            took = time.perf_counter() - started
            assert len(set(bodies)) == USERS
            assert service.process.metric("alarmdigest_book_alarms_sent_total") == EVENTS + WORKERS
            made[:] = bodies
            return Round(took)

    def bare() -> Round:
        """The same bytes from a process that has them ready; in stream mode, all confirmed."""
        if not made:
            ours()
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            if mode == "core":
                go = stack.enter_context(
                    publisher(server.url, [frames_of(("AlarmDigest", body) for body in made)])
                )
                subscriber = Subscriber(server.url)
                stack.callback(subscriber.close)
                started = time.perf_counter()
                go()
                subscriber.collect(USERS)
                return Round(time.perf_counter() - started)
            with ServiceProcess(server.url, mode="stream") as maker:
                maker.stop()
            subscriber = Subscriber(server.url)  # somebody listens there too
            stack.callback(subscriber.close)
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            file.write(b"\n".join(made))
            file.flush()
            contestant = Reference(stack, "acked", server.url, USERS, file.name)
            started = time.perf_counter()
            contestant.go()
            subscriber.collect(USERS)
            contestant.wait()
            return Round(time.perf_counter() - started)

    name = "bare publisher" if mode == "core" else "bare publisher, PubAcks"
    mine, others = side_by_side(benchmark, ours, {name: bare})
    report.distribution(
        f"digests of 25 alarms per second, {mode}", "alarmdigest", rates(mine, USERS)
    )
    report.distribution(
        f"digests of 25 alarms per second, {mode}", name, rates(others[name], USERS)
    )
    report.row(
        "throughput",
        f"{mode}, digests of 25 alarms",
        rate(mine, USERS),
        "/s",
        ratio=rate(mine, USERS) / rate(others[name], USERS),
        reference=name,
        target=">= 0.75" if mode == "core" else ">= 0.8",
    )


def test_a_burst_of_500_000(benchmark: Any, report: Report, load: bytes) -> None:
    """In one write. The original loses 15 % of it."""
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        service = Service(stack, server)
        everything = load + the_end()

        def burst() -> None:
            publish_raw(server.url, everything, timeout=120)
            service.wait()

        benchmark.pedantic(burst, rounds=1)
        merged = service.process.metric("alarmdigest_book_events_total")
    report.row(
        "throughput",
        "lost of a burst of 500,000",
        ALL_EVENTS - merged,
        "events",
        target="<= 0",
        better="less",
    )
    assert merged == ALL_EVENTS
