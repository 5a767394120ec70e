"""The benchmark of the Go original, mirrored: many shots of many bursts.

200 shots of 60 bursts; each burst is a fresh user with one alarm and one request for a digest, on
the plain subjects and on a numbered one, 15 ms between two shots, over when all 12,000 digests have
come and have been checked. And the same without the pauses.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import orjson
import pytest
from load import request
from report import Report
from rig import ROUNDS, WORKERS, Subscriber, nats_server
from support.raw import frames_of
from support.service import ServiceProcess

SHOTS, BURSTS = 200, 60
PAUSE_S = 0.015
DIGESTS = SHOTS * BURSTS


def shots(round_number: int) -> list[bytes]:
    made = []
    for shot in range(SHOTS):
        messages: list[tuple[str, bytes]] = []
        for burst in range(BURSTS):
            user = f"{round_number:08x}-{shot:04x}-4{burst:03x}-9fff-{round_number:012x}"
            body = alarm_event(user)
            subject, asked = request(user)
            messages += [
                (f"AlarmStatusChanged.{burst}", body),
                ("AlarmStatusChanged", body),
                (f"{subject}.{burst}", asked),
                (subject, asked),
            ]
        made.append(frames_of(messages))
    return made


def alarm_event(user: str) -> bytes:
    body = (
        b'{"AlarmID":"of-%b","UserID":"%b","Status":"CRITICAL","ChangedAt":"2021-06-07T20:40:15Z"}'
    )
    return body % (user.encode(), user.encode())


def assert_every_user_once(digests: list[bytes]) -> None:
    users = set()
    for body in digests:
        digest = orjson.loads(body)
        [alarm] = digest["ActiveAlarms"]
        assert alarm["AlarmID"] == "of-" + digest["UserID"]
        users.add(digest["UserID"])
    assert len(digests) == len(users) == DIGESTS


@pytest.mark.parametrize("pause_s", [PAUSE_S, 0.0], ids=["paced", "unpaced"])
@pytest.mark.parametrize("mode", ["core", "stream"])
def test_200_shots_of_60_bursts(benchmark: Any, report: Report, pause_s: float, mode: str) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        options = ["--workers", str(WORKERS)]
        service = stack.enter_context(ServiceProcess(server.url, mode=mode, options=options))
        digests, sender = Subscriber(server.url), Subscriber(server.url, "nothing")
        stack.callback(digests.close)
        stack.callback(sender.close)
        numbers = iter(range(ROUNDS))

        def ready() -> tuple[tuple[list[bytes]], dict[str, Any]]:
            return (shots(next(numbers)),), {}

        def play(loads: list[bytes]) -> None:
            for number, load in enumerate(loads):
                if number and pause_s:
                    time.sleep(pause_s)
                sender.send(load)
            assert_every_user_once(digests.collect(DIGESTS))

        benchmark.pedantic(play, setup=ready, rounds=ROUNDS)
        assert service.metric("alarmdigest_book_digests_total") == DIGESTS * ROUNDS
        report.row(
            "Go mirror",
            f"12,000 digests, {mode}, {'15 ms between shots' if pause_s else 'unpaced'}",
            benchmark.stats.stats.median,
            "s",
            target="<= 0.2" if mode == "core" and not pause_s else "",
            better="less",
        )
