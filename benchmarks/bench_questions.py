"""What operators ask: who waits, of a million users, and one user's history out of a million
messages."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

from load import events, publisher
from report import Report
from rig import WORKERS, Service, captured, nats_server, the_end
from support.bus import Bus
from support.jetstream import asking
from support.records import EVENT, Routed, pack
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.streams import INPUTS

from alarmdigest._ext.alarmbook import AlarmBook
from alarmdigest.pipeline.questions import TopUsers

USERS = 1_000_000
MESSAGES = 1_000_000


def test_who_waits_of_a_million_users(benchmark: Any, report: Report) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        service = ServiceProcess(server.url, mode="core", options=["--workers", str(WORKERS)])
        stack.enter_context(service)
        with ExitStack() as inner:
            watched = Service(inner, server, running=service)
            go = inner.enter_context(publisher(server.url, [events(USERS, 1), the_end()]))
            go()
            watched.wait()
        bus = stack.enter_context(Bus(server.url))

        def ask() -> None:
            found = json.loads(bus.ask("AlarmDigestQuery.users", b'{"due":true}'))
            assert found["found"] == USERS

        benchmark.pedantic(ask, rounds=10, warmup_rounds=1)
        report.row(
            "questions",
            "users, of 1 M users",
            benchmark.stats.stats.median,
            "s",
            target="<= 1",
            better="less",
        )


def test_how_long_a_slice_holds_up_a_worker(benchmark: Any, report: Report) -> None:
    """All million users in one book: twelve times what one worker has."""
    book = AlarmBook(retention_ns=10**18, split_bytes=1 << 20, secret=bytes(16))
    fill(book)
    longest = 0.0

    def list_all() -> None:
        nonlocal longest
        question = TopUsers(
            order=0, top=1000, only_due=True, only_active=False, on_answered=lambda: None
        )
        while True:
            started = time.perf_counter()
            done = question.answer_slice(book)
            longest = max(longest, time.perf_counter() - started)
            if done:
                return

    benchmark.pedantic(list_all, rounds=5, warmup_rounds=1)
    report.row(
        "questions",
        "longest slice of an answer, 1 M users in one book",
        longest * 1e3,
        "ms",
        target="<= 10",
        better="less",
    )


def fill(book: AlarmBook) -> None:
    for first in range(0, USERS, 10_000):
        book.merge(
            pack(
                [
                    Routed(EVENT, b"user-%036d" % (n * 7919 % USERS), b"alarm", 1, n + 1, n + 1)
                    for n in range(first, first + 10_000)
                ]
            )
        )


def test_history_out_of_a_million_messages(benchmark: Any, report: Report) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        with asking(server.url) as js:
            js.create_stream({"name": "ALARMS", "subjects": INPUTS})
        with captured(server, MESSAGES):
            go = stack.enter_context(publisher(server.url, [events(MESSAGES // 25, 25)]))
            go()

        def tell() -> None:
            command = ("history", "nobody", "--server", server.url)
            done = subprocess.run(
                [sys.executable, "-m", "alarmdigest", *command],
                env=CLEAN_ENVIRONMENT,
                capture_output=True,
                check=False,
            )
            assert b"reading %d messages" % MESSAGES in done.stderr

        benchmark.pedantic(tell, rounds=3)
        report.row(
            "questions",
            "history, 1 M messages, start included",
            MESSAGES / benchmark.stats.stats.median,
            "messages/s",
            target=">= 200000",
            better="more",
        )
