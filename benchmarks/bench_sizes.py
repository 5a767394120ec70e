"""Numbers of workers, and sizes of messages and digests."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from load import events, publisher, request, user_id
from report import Report
from rig import (
    ROUNDS,
    WORKERS,
    Play,
    Round,
    Service,
    Subscriber,
    nats_server,
    seconds,
    side_by_side,
    the_end,
    timed,
)
from support.raw import frames_of

USERS, ALARMS = 20_000, 25
EVENTS = USERS * ALARMS
BEST_OF = [1, 4, 48]


def test_workers(benchmark: Any, report: Report) -> None:
    """12 is the default; it must not be much worse than the best."""
    load = events(USERS, ALARMS)

    def with_workers(count: int) -> Play:
        def play() -> Round:
            with ExitStack() as stack:
                server = stack.enter_context(nats_server())
                service = Service(stack, server, workers=count)
                go = stack.enter_context(publisher(server.url, [load, the_end(count)]))
                found = timed(go, service)
                service.assert_merged(EVENTS + count)
                return found

        return play

    ours, others = side_by_side(
        benchmark, with_workers(12), {str(count): with_workers(count) for count in BEST_OF}
    )
    best = min(seconds(rounds) for rounds in [ours, *others.values()])
    picture = "events per second, by number of workers"
    for count in [1, 4, 12, 48]:
        rounds = ours if count == 12 else others[str(count)]
        report.distribution(picture, f"{count} workers", [EVENTS / one.seconds for one in rounds])
        report.row(
            "sizes",
            f"core, {count} workers",
            EVENTS / seconds(rounds),
            "/s",
            ratio=best / seconds(rounds),
            reference="the best number",
            target={12: ">= 0.85", 48: ">= 0.9"}.get(count, ""),
        )


@pytest.mark.parametrize("alarms", [1, 25, 1000])
def test_digests_of_sizes(benchmark: Any, report: Report, alarms: int) -> None:
    """Requests of users with so many due alarms each; alarms sent a second."""
    users = 25_000 // alarms
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        service = Service(stack, server)
        subscriber = Subscriber(server.url)
        stack.callback(subscriber.close)
        seconds_left = iter(range(ROUNDS))

        def fill() -> tuple[tuple[()], dict[str, Any]]:
            second = next(seconds_left)
            # WARNING and CRITICAL in turn, so that all are due again.
            load = events(users, alarms, second, status=("WARNING", "CRITICAL")[second % 2])
            with (
                ExitStack() as filling,
                publisher(server.url, [load, the_end(second=second)]) as go,
            ):
                watched = Service(filling, server, running=service.process)
                go()
                watched.wait()
            subscriber.wait_for(WORKERS)
            return (), {}

        asked = frames_of(request(user_id(user)) for user in range(users))

        def ask() -> None:
            subscriber.send(asked)
            subscriber.wait_for(users)

        benchmark.pedantic(ask, setup=fill, rounds=ROUNDS)
        report.row(
            "sizes",
            f"core, alarms sent in digests of {alarms}",
            users * alarms / benchmark.stats.stats.median,
            "alarms/s",
        )
