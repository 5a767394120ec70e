"""Whatever becomes of stderr, the service works; and what came out of it is whole and in order."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.bus import Bus
from support.faults import numbers, pairs, patched
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.small_disk import MountedDisk
from support.surroundings import Surrounded
from support.wait import eventually

DROPPED = "alarmdigest_log_lines_dropped_total"
# Every request to it is a line of its log.
TALKATIVE = ["--log-level", "debug"]
# So that a few requests are enough.
SMALL_BACKLOG = patched(
    "from alarmdigest.runtime import log_writer\nlog_writer.MAX_WAITING_BYTES = 2000\n"
)


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as started:
        yield started


def assert_works(service: Surrounded, server: NatsServer, first: int) -> None:
    """While it has more to log than stderr takes: messages come out, and HTTP answers at once."""
    with Bus(server.url) as bus:
        for round_ in range(first, first + 60, 20):
            bus.publish_all(pairs(range(round_, round_ + 20)))
            for _ in range(20):
                start = time.monotonic()
                assert service.http("/healthz") == (200, "ok\n")
                assert time.monotonic() - start < 2
        assert len(numbers(bus.wait_for_digests(60))) == 60


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe of one page, full already."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"-" * 4096)
    os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def read_available(reading: int) -> str:
    os.set_blocking(reading, False)
    text = b""
    with suppress(BlockingIOError):
        while data := os.read(reading, 65536):
            text += data
    return text.decode()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_reader_that_hangs_from_the_start_on_holds_up_nothing(
    server: NatsServer, form: str
) -> None:
    options = [*TALKATIVE, "--log-format", form]
    with (
        full_pipe() as (reading, writing),
        Surrounded(server.url, stderr=writing, options=options, program=SMALL_BACKLOG) as service,
    ):
        service.wait_until_ready()
        assert_works(service, server, 0)
        service.process.send_signal(signal.SIGUSR1)  # stacks have nowhere to go, too
        service.process.send_signal(signal.SIGHUP)
        assert service.metric(DROPPED) > 10
        text = ""

        def said() -> bool:
            """The log goes on, and says how many lines it lacks."""
            nonlocal text
            text += read_available(reading)
            service.http("/healthz")
            missing = sum(map(int, re.findall(r"(\d+) log lines were dropped", text)))
            return missing > 0 and missing == service.metric(DROPPED)

        eventually(said, what="the log to go on, and how many lines it lacks")
        lines = text.lstrip("-").splitlines()
        note = "log lines were dropped"
        if form == "json":
            assert all("msg" in json.loads(line) for line in lines)
            moments = [json.loads(line)["ts"] for line in lines if note not in line]
        else:
            moments = [line.split()[0] for line in lines if re.match(f"20(?!.*{note})", line)]
        assert moments == sorted(moments)
        os.set_blocking(reading, False)
        service.process.send_signal(signal.SIGTERM)

        def last_line() -> str:
            nonlocal text
            text += read_available(reading)
            return text.splitlines()[-1]

        eventually(lambda: "everything that arrived was worked off" in last_line(), what="the end")
        assert service.wait() == 0


def test_it_ends_in_time_though_nobody_reads(server: NatsServer) -> None:
    with (
        full_pipe() as (_, writing),
        Surrounded(server.url, stderr=writing, options=TALKATIVE) as service,
    ):
        service.wait_until_ready()
        start = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - start < 8


def test_a_reader_that_is_gone_holds_up_nothing(server: NatsServer) -> None:
    reading, writing = os.pipe()
    with Surrounded(server.url, stderr=writing, options=TALKATIVE) as service:
        os.close(writing)
        service.wait_until_ready()
        os.close(reading)
        assert_works(service, server, 100)
        assert service.metric(DROPPED) >= 60
        assert service.stop() == 0


def test_a_device_that_is_always_full_holds_up_nothing(server: NatsServer) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with Surrounded(server.url, stderr=full, options=TALKATIVE) as service:
        os.close(full)
        service.wait_until_ready()
        assert_works(service, server, 200)
        assert service.metric(DROPPED) >= 60
        assert service.stop() == 0


def test_a_log_on_a_full_disk_goes_on_when_there_is_room_and_says_what_is_missing(
    server: NatsServer, tmp_path: Path
) -> None:
    if not MountedDisk.possible():
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        log = os.open(disk / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        with Surrounded(server.url, stderr=log, options=TALKATIVE) as service:
            os.close(log)
            service.wait_until_ready()
            filler = disk / "filler"
            with suppress(OSError):
                filler.write_bytes(bytes(2**20))
            assert_works(service, server, 300)
            assert service.metric(DROPPED) > 0
            filler.unlink()

            def goes_on() -> re.Match[str] | None:
                service.http("/healthz")
                return re.search(r"(\d+) log lines were dropped", (disk / "log").read_text())

            said = eventually(goes_on, what="the number of dropped lines")
            assert said
            assert int(said[1]) == service.metric(DROPPED)
            assert service.stop() == 0
            text = (disk / "log").read_text()
            assert all(
                re.match(r"20\d\d-|$", line) or "\0" not in line for line in text.split("\n")
            )
            assert text.count("\n20") + 1 >= text.count("/healthz"), "two lines in one"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_terminal_that_is_held_with_ctrl_s_holds_up_nothing(server: NatsServer) -> None:
    outer, inner = pty.openpty()
    with Surrounded(server.url, stderr=inner, options=TALKATIVE, program=SMALL_BACKLOG) as service:
        service.wait_until_ready()
        termios.tcflow(inner, termios.TCOOFF)
        assert_works(service, server, 400)
        eventually(lambda: service.metric(DROPPED) > 0, what="dropped lines")
        termios.tcflow(inner, termios.TCOON)
        eventually(
            lambda: "log lines were dropped" in read_available(outer), what="the log to go on"
        )
        assert service.stop() == 0
    os.close(outer)
    os.close(inner)


def test_one_that_others_made_non_blocking_loses_nothing(server: NatsServer) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with Surrounded(server.url, stderr=writing, options=TALKATIVE) as service:
        os.close(writing)
        service.wait_until_ready()
        for _ in range(100):
            service.http("/healthz")
        text = ""

        def all_of_it() -> bool:
            nonlocal text
            text += read_available(reading)
            return text.count("/healthz") == 100

        eventually(all_of_it, what="every line")
        assert service.metric(DROPPED) == 0
        assert service.stop() == 0
    os.close(reading)


CRASH = """
import threading, alarmdigest.process.runner
def broken(self, service):
    raise ArithmeticError("broken on purpose")
alarmdigest.process.runner.Runner._watch = broken
"""


def test_the_last_words_of_a_crash_come_out_last(server: NatsServer) -> None:
    with ServiceProcess(server.url, program=patched(CRASH)) as service:
        assert service.wait() == 1
        assert "CRITICAL MainThread an internal error" in service.log
        assert service.log.endswith("ArithmeticError: broken on purpose\n")


def test_what_is_printed_instead_of_logged_is_in_the_log_too(server: NatsServer) -> None:
    code = """
import sys, threading, warnings
from alarmdigest.process.runner import Runner
from alarmdigest.pipeline.service import Service
start = Service.start
def fail(cause):
    raise cause
class Finalized:
    def __del__(self):
        raise ValueError("finalized")
def chatter(self):
    start(self)
    print("printed", file=sys.stderr)
    warnings.warn("warned")
    for cause in (ArithmeticError("a fault"), OSError(24, "no more files")):
        thread = threading.Thread(target=fail, args=(cause,), name="mine")
        thread.start()
        thread.join()
    Finalized()
Service.start = chatter
"""
    with ServiceProcess(
        server.url, program=patched(code), options=["--log-format", "json"]
    ) as service:
        assert service.stop() == 0
        said = [json.loads(line) for line in service.log.splitlines()]
        messages = [line["msg"] for line in said]
        assert {"printed", "thread mine ended"} <= set(messages)
        for text in ("UserWarning: warned", "thread mine ended: [Errno 24]", "'finalized'"):
            assert any(text in message for message in messages)
        traces = [line["traceback"] for line in said if "traceback" in line]
        assert len(traces) == 1
        assert traces[0].endswith("ArithmeticError: a fault")


def test_a_crash_ends_it_although_nobody_reads(server: NatsServer) -> None:
    """Its stacks go to stderr without any thread of ours."""
    with full_pipe() as (_, writing), Surrounded(server.url, stderr=writing) as service:
        service.wait_until_ready()
        service.process.send_signal(signal.SIGABRT)
        assert service.wait() in (-signal.SIGABRT, -signal.SIGSEGV)
