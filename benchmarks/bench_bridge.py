"""The bridge: alerts a second of one core, from Alertmanager's bodies of 100, against the same HTTP
library that answers at once."""

from __future__ import annotations

import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from report import Report
from rig import nats_server
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.paths import ROOT
from support.service import CLEAN_ENVIRONMENT

ALERTS_IN_A_BODY = 100
BODIES = 600
CONNECTIONS = 100
ROUNDS = 5

# The library alone: the same server, thread and kind of connection; it reads a body and says 200.
BARE = """
import time
from alarmdigest.connect.bridge.connections import connections_with
from alarmdigest.http.server import HttpThread, listen

async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"40")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"}" * 40})

listening = listen("127.0.0.1", 0)
HttpThread(app, listening, protocol=connections_with(30.0, 30.0)).start()
print(listening.getsockname()[1], flush=True)
time.sleep(3600)
"""


class Spent(NamedTuple):
    """Of one round: seconds by the clock, of the process's processor, and of the others'."""

    wall_s: float
    cpu_s: float
    others_s: float


def requests(first: int, status: str) -> list[bytes]:
    """New alarms, of ten users."""
    found = []
    for number in range(first, first + BODIES):
        alerts = [
            alert(
                f"Alert{one % 20}",
                status=status,
                ends_at="2026-11-28T10:05:00Z" if status == "resolved" else "0001-01-01T00:00:00Z",
                instance=f"host{number * ALERTS_IN_A_BODY + one}:9100",
                severity="critical",
                team=f"team{one % 10}",
                job="node",
                datacenter="eu-1",
                annotations={
                    "summary": "the host is slow",
                    "description": "p99 over 2 s for 5 minutes on this host, see the dashboard",
                },
            )
            for one in range(ALERTS_IN_A_BODY)
        ]
        body = json.dumps(webhook(*alerts)).encode()
        head = f"POST /alertmanager HTTP/1.1\r\nHost: b\r\nContent-Length: {len(body)}\r\n\r\n"
        found.append(head.encode() + body)
    return found


def drive(address: tuple[str, int], bodies: list[bytes]) -> None:
    """All of them, over CONNECTIONS connections, each with one request at a time."""
    waiting = selectors.DefaultSelector()
    left = iter(bodies)

    def send_next(connection: socket.socket) -> None:
        if (body := next(left, None)) is not None:
            connection.sendall(body)
        else:
            waiting.unregister(connection)
            connection.close()

    for _ in range(CONNECTIONS):
        connection = socket.create_connection(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting.register(connection, selectors.EVENT_READ)
        send_next(connection)
    while waiting.get_map():
        for key, _events in waiting.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            received = ready.recv(65536)
            assert received.startswith((b"HTTP/1.1 200", b"{", b"}")), received
            if received.endswith(b"}"):
                send_next(ready)


def spent(pid: int, others: tuple[int, ...], work: Callable[[], None]) -> Spent:
    before, before_others, began = cpu_s(pid), sum(map(cpu_s, others)), time.perf_counter()
    work()
    took = time.perf_counter() - began
    return Spent(took, cpu_s(pid) - before, sum(map(cpu_s, others)) - before_others)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def bare() -> Iterator[tuple[int, tuple[str, int]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", BARE],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=CLEAN_ENVIRONMENT,
    )
    try:
        assert process.stdout is not None
        yield process.pid, ("127.0.0.1", int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def pin(pid: int, core: int) -> None:
    """With all its threads."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def test_alerts_a_second_of_one_core(benchmark: Any, report: Report) -> None:
    """The bridge has a core; server and sender share the other one."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        streams = Streams(server)
        stack.callback(streams.close)
        bridge = stack.enter_context(BridgeProcess(server.url))
        bare_pid, bare_address = stack.enter_context(bare())
        if len(cores) > 1:
            pin(bridge.process.pid, cores[0])
            pin(bare_pid, cores[0])
            pin(server.pid, cores[1])
            stack.callback(os.sched_setaffinity, 0, set(cores))
            os.sched_setaffinity(0, {cores[1]})
        alone = requests(0, "firing")
        found: dict[str, list[Spent]] = {"new": [], "repeated": [], "resolved": [], "bare": []}

        def one_round(number: int) -> None:
            first = number * BODIES
            new, resolved = requests(first, "firing"), requests(first, "resolved")
            others = (server.pid, os.getpid())
            for what, bodies in (("new", new), ("repeated", new), ("resolved", resolved)):
                work = partial(drive, bridge.address, bodies)
                found[what].append(spent(bridge.process.pid, others, work))
            found["bare"].append(spent(bare_pid, others, partial(drive, bare_address, alone)))

        numbers = iter(range(ROUNDS + 1))
        benchmark.pedantic(lambda: one_round(next(numbers)), rounds=ROUNDS, warmup_rounds=1)
        # 2 messages for each alarm: that it fires, and that it is resolved.
        assert streams.info("ALARMS").messages == 2 * (ROUNDS + 1) * BODIES * ALERTS_IN_A_BODY
    alerts = BODIES * ALERTS_IN_A_BODY
    for what, rounds in found.items():
        cpu_us = statistics.median(one.cpu_s / alerts * 1e6 for one in rounds)
        target = ">= 20000" if what != "bare" else ""
        per_core = "alerts for a second of its processor"
        report.row("bridge", f"{what}: {per_core}", 1e6 / cpu_us, "", target=target)
        # With 100 connections the bridge waits for the server now and then.
        rate = statistics.median(alerts / one.wall_s for one in rounds)
        report.row("bridge", f"{what}: alerts/s by the clock", rate, "")
        busy = statistics.median(one.others_s / one.wall_s for one in rounds)
        report.row("bridge", f"{what}: server and sender, of a core", busy, "", better="less")
    ratios = [
        ours.cpu_s / theirs.cpu_s for ours, theirs in zip(found["new"], found["bare"], strict=True)
    ]
    report.row(
        "bridge",
        "new: processor time, x the library alone",
        statistics.median(ratios),
        "x",
        better="less",
    )
