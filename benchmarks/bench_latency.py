"""How long from a request to its digest, beside a bare NATS request and its reply.

Both are asked for in turn, one at a time, so they meet the same machine and the same load.
"""

from __future__ import annotations

import itertools
import statistics
import time
from contextlib import ExitStack
from typing import Any

import pytest
from load import events, paced_publisher, request
from report import Report
from rig import WORKERS, Reference, Subscriber, nats_server
from support.raw import frames_of
from support.service import ServiceProcess
from support.wait import eventually

REQUESTS = 3000
# Bytes a second; about a quarter of what core mode takes of events of 180 bytes on two cores.
QUARTER_LOAD = {"core": 150_000 * 185.0, "stream": 35_000 * 185.0}
LOAD_USERS, LOAD_ALARMS, LOAD_SECONDS = 6000, 5, 50


def p(values: list[float], hundredth: int) -> float:
    return statistics.quantiles(values, n=100)[hundredth - 1]


# Each request is for a new alarm.
numbers = itertools.count()


def measure(server_url: str, count: int = REQUESTS) -> tuple[list[float], list[float]]:
    """Seconds of so many requests for a digest, and of bare requests in between."""
    with ExitStack() as stack:
        digests = Subscriber(server_url)
        replies = Subscriber(server_url, "reference.reply")
        stack.callback(digests.close)
        stack.callback(replies.close)
        Reference(stack, "responder", server_url, 0)
        ours: list[float] = []
        bare: list[float] = []
        for number in itertools.islice(numbers, count):
            user = f"asked-{number % 500}"
            alarm = (
                b'{"AlarmID":"%d","UserID":"%b",'
                b'"Status":"CRITICAL","ChangedAt":"2021-06-07T20:40:15Z"}'
            )
            digests.send(frames_of([("AlarmStatusChanged", alarm % (number, user.encode()))]))
            subject, body = request(user)
            started = time.perf_counter()
            digests.send(frames_of([(subject, body)]))
            digests.wait_for(1)
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            replies.send(b"PUB reference.request reference.reply 5\r\nhello\r\n")
            replies.wait_for(1)
            bare.append(time.perf_counter() - started)
        return ours, bare


@pytest.mark.parametrize("load", ["at rest", "under a quarter of the load"])
@pytest.mark.parametrize("mode", ["core", "stream"])
def test_request_to_digest(benchmark: Any, report: Report, mode: str, load: str) -> None:
    at_rest = load == "at rest"
    found: list[tuple[list[float], list[float]]] = []
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        options = ["--workers", str(WORKERS)]
        service = stack.enter_context(ServiceProcess(server.url, mode=mode, options=options))
        measure(server.url, 100)
        if not at_rest:
            # Ten seconds of events that are all news, so that each checkpoint has rows to write.
            frames = b"".join(
                events(LOAD_USERS, LOAD_ALARMS, second) for second in range(LOAD_SECONDS)
            )
            stack.enter_context(paced_publisher(server.url, frames, QUARTER_LOAD[mode]))()
            eventually(
                lambda: service.metric('alarmdigest_received_total{kind="event"}') > 50_000,
                timeout=30,
                what="the load",
            )
        benchmark.pedantic(lambda: found.append(measure(server.url)), rounds=3)
        assert service.metric('alarmdigest_dropped_total{kind="event"}') == 0
    ours = [one for played, _ in found for one in played]
    bare = [one for _, played in found for one in played]
    report.distribution(f"latency, {mode}", f"digest, {load}", ours)
    report.distribution(f"latency, {mode}", f"bare request, {load}", bare)
    limits = {
        ("core", True): {50: "<= 1.4", 99: "<= 3"},
        ("stream", True): {50: "<= 1.7", 99: "<= 4"},
    }
    for hundredth in (50, 99):
        target = limits.get((mode, at_rest), {99: "<= 10"}).get(hundredth, "")
        report.row(
            "latency",
            f"{mode}, {load}, p{hundredth}",
            p(ours, hundredth) * 1e6,
            "µs",
            ratio=p(ours, hundredth) / p(bare, hundredth),
            reference=f"bare request p{hundredth}",
            target=target,
            better="less",
        )


def test_a_user_with_100_000_alarms_of_which_one_is_due(benchmark: Any, report: Report) -> None:
    """Beside a user with a single alarm, in turn."""
    large, small = "has-100000", "has-1"
    body = b'{"AlarmID":"%d","UserID":"%b","Status":"%b","ChangedAt":"2021-06-07T20:40:%02d.%09dZ"}'
    found: dict[str, list[float]] = {large: [], small: []}
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        service = stack.enter_context(ServiceProcess(server.url))
        digests = Subscriber(server.url)
        stack.callback(digests.close)
        many = [
            ("AlarmStatusChanged", body % (number, large.encode(), b"WARNING", 10, 0))
            for number in range(100_000)
        ]
        digests.send(frames_of(many))
        eventually(lambda: service.metric("alarmdigest_alarms") == 100_000, what="the alarms")
        digests.send(frames_of([request(large)]))
        eventually(lambda: service.metric("alarmdigest_book_alarms_sent_total") == 100_000)
        digests.wait_for(int(service.metric("alarmdigest_book_digests_total")))

        def ask() -> None:
            for number in range(1000):
                for user in (large, small):
                    status = (b"CRITICAL", b"WARNING")[number % 2]
                    change = body % (0, user.encode(), status, 20, number)
                    started = time.perf_counter()
                    digests.send(frames_of([("AlarmStatusChanged", change), request(user)]))
                    digests.wait_for(1)
                    found[user].append(time.perf_counter() - started)

        benchmark.pedantic(ask, rounds=1)
    report.row(
        "latency",
        "a user with 100,000 alarms, one due, p50",
        p(found[large], 50) * 1e6,
        "µs",
        ratio=p(found[large], 50) / p(found[small], 50),
        reference="a user with one",
        target="<= 2",
        better="less",
    )
