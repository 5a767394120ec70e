"""The contestants of a benchmark, each a process of its own, and how they are timed side by side.

A contestant is prepared, let go, and waited for. What it is compared with runs in the same round,
since machines differ and are shared: only ratios within one run mean something.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from load import TESTS, last_words
from support.nats_server import NatsServer
from support.raw import frames_of
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest._ext import frames

HERE = Path(__file__).parent
WORKERS = 12
ROUNDS = int(os.environ.get("ALARMDIGEST_BENCH_ROUNDS", "5"))
TIMEOUT_S = 300.0
# So that nobody is cut off for being slow, and that the stream drops nothing of a burst.
EXTRA = "max_pending: 512MB"
JETSTREAM_EXTRA = "max_buffered_msgs: 1000000\nmax_buffered_size: 512MB"


def nats_server() -> NatsServer:
    return NatsServer(extra=EXTRA, jetstream_extra=JETSTREAM_EXTRA)


class Subscriber:
    """Counts the messages of a subject with as little as possible; sleeps until some come."""

    def __init__(self, url: str, subject: str = "AlarmDigest") -> None:
        place = urlsplit(url)
        assert place.port
        self._socket = socket.create_connection((place.hostname, place.port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 21)
        self._filled = 0
        self.last_body = b""
        self._socket.sendall(
            b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n'
            + f"SUB {subject}  1\r\nPING\r\n".encode()
        )
        while frames.PONG not in [kind for kind, *_ in self._read()]:
            pass

    def _read(self) -> list[tuple[int, int, bytes, bytes, bytes, bytes]]:
        with memoryview(self._buffer) as whole, whole[self._filled :] as room:
            count = self._socket.recv_into(room)
        assert count, "the server closed the connection"
        end = self._filled + count
        found, position = frames.scan(self._buffer, 0, end)
        self._filled = end - position
        self._buffer[: self._filled] = self._buffer[position:end]
        if any(kind == frames.PING for kind, *_ in found):
            self._socket.sendall(b"PONG\r\n")
        return found

    def wait_for(self, count: int) -> None:
        """Until so many messages have come since the last call."""
        while count > 0:
            for kind, *_, body in self._read():
                if kind in (frames.MSG, frames.HMSG):
                    count -= 1
                    self.last_body = body
        assert count == 0, f"{-count} more messages than expected"

    def collect(self, count: int) -> list[bytes]:
        """The bodies of the next so many messages."""
        bodies: list[bytes] = []
        while len(bodies) < count:
            bodies += [f[5] for f in self._read() if f[0] in (frames.MSG, frames.HMSG)]
        return bodies

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()


class Contestant(ABC):
    """Ready when made; ``wait`` returns when it has dealt with the whole load."""

    @abstractmethod
    def wait(self) -> None: ...

    @abstractmethod
    def cpu_seconds(self) -> float:
        """Of its whole process, for the load alone; after ``wait``."""


class Service(Contestant):
    """alarmdigest, watched from outside only by the digests that it sends.

    The load must end with ``last_words(workers)``: their digests come when all is merged.
    """

    def __init__(
        self,
        stack: ExitStack,
        server: NatsServer,
        mode: str = "core",
        *,
        workers: int = WORKERS,
        options: Sequence[str] = (),
        running: ServiceProcess | None = None,
    ) -> None:
        self.process = running or stack.enter_context(
            ServiceProcess(server.url, mode=mode, options=["--workers", str(workers), *options])
        )
        self.subscriber = Subscriber(server.url)
        stack.callback(self.subscriber.close)
        self._workers = workers
        self._before = process_cpu_seconds(self.process.process.pid)

    def wait(self) -> None:
        self.subscriber.wait_for(self._workers)

    def cpu_seconds(self) -> float:
        return process_cpu_seconds(self.process.process.pid) - self._before

    def store_everything(self) -> int:
        """Wait until the store holds all that was merged, so that what comes next is not measured
        beside it; how many events that took, for nothing is written while nothing comes."""
        sent, before = 0, self.process.metric("alarmdigest_checkpoints_total")

        def stored_twice() -> bool:
            # The first of them may have begun before the last event.
            nonlocal sent
            sent += 1
            event = (  # of an alarm of its own, so that there is something to write
                b'{"AlarmID":"%f","UserID":"settles","Status":"CLEARED",'
                b'"ChangedAt":"2021-06-07T20:40:15Z"}'
            )
            self.subscriber.send(frames_of([("AlarmStatusChanged", event % time.monotonic())]))
            return self.process.metric("alarmdigest_checkpoints_total") >= before + 2

        eventually(stored_twice, timeout=TIMEOUT_S, interval=0.1, what="two checkpoints")
        return sent

    def assert_merged(self, events: int) -> None:
        """All of them were, and nothing was dropped or refused."""
        service = self.process
        assert service.metric("alarmdigest_book_events_total") == events
        assert service.metric('alarmdigest_dropped_total{kind="event"}') == 0
        assert service.metric("alarmdigest_listener_connections_lost_total") == 0


class Reference(Contestant):
    """One of ``reference.py``, or the C subscriber."""

    def __init__(self, stack: ExitStack, name: str, url: str, count: int, *more: str) -> None:
        command = (
            [str(c_subscriber())]
            if name == "c"
            else [sys.executable, str(HERE / "reference.py"), name]
        )
        self._process = subprocess.Popen(
            [*command, url, str(count), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(TESTS)},
        )
        stack.callback(self._end)
        self._cpu_seconds = 0.0
        # One that is told when to begin must have everything at hand by then.
        self._expect("loaded" if name == "acked" else "ready")

    def go(self) -> None:
        """For one that waits to be told."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        self._cpu_seconds = float(self._expect("done").split()[1])

    def cpu_seconds(self) -> float:
        return self._cpu_seconds

    def _expect(self, word: str) -> str:
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()) and not line.startswith(word):
            pass
        assert line, f"the reference ended without {word!r}"
        return line

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


def process_cpu_seconds(pid: int) -> float:
    """User and system time of all threads."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


@cache
def c_subscriber() -> Path | None:
    """The compiled C subscriber; None where there is no compiler or no libnats."""
    compiler = shutil.which("cc")
    made = HERE / "results" / "csubscriber"
    made.parent.mkdir(exist_ok=True)
    if compiler is None:
        return None
    command = [compiler, "-O2", str(HERE / "csubscriber.c"), "-lnats", "-o", str(made)]
    return made if subprocess.run(command, capture_output=True).returncode == 0 else None


class Round:
    """What one contestant did in one round."""

    def __init__(self, seconds: float, cpu_seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.cpu_seconds = cpu_seconds


Play = Callable[[], Round]


def side_by_side(
    benchmark: Any, ours: Play, references: Mapping[str, Play], rounds: int = ROUNDS
) -> tuple[list[Round], dict[str, list[Round]]]:
    """Play all of them in every round, ours last; pytest-benchmark records ours."""
    mine: list[Round] = []
    others: dict[str, list[Round]] = {name: [] for name in references}

    def play_references() -> None:
        for name, play in references.items():
            others[name].append(play())

    benchmark.pedantic(lambda: mine.append(ours()), setup=play_references, rounds=rounds)
    benchmark.extra_info["seconds"] = [one.seconds for one in mine]
    for name, played in others.items():
        benchmark.extra_info[f"seconds of {name}"] = [one.seconds for one in played]
    return mine, others


def seconds(rounds: Sequence[Round]) -> float:
    return statistics.median(one.seconds for one in rounds)


def cpu(rounds: Sequence[Round]) -> float:
    return statistics.median(one.cpu_seconds for one in rounds)


def timed(go: Callable[[], None], contestant: Contestant) -> Round:
    """From the first byte published until the contestant is through."""
    started = time.perf_counter()
    go()
    contestant.wait()
    took = time.perf_counter() - started
    return Round(took, contestant.cpu_seconds())


@contextmanager
def captured(server: NatsServer, count: int) -> Iterator[None]:
    """Leaves the block when the stream ALARMS holds so many messages."""
    from support.jetstream import asking, info_of

    yield
    with asking(server.url) as js:
        eventually(
            lambda: info_of(js, "ALARMS").messages == count,
            timeout=TIMEOUT_S,
            interval=0.02,
            what=f"{count} messages captured",
        )


def the_end(workers: int = WORKERS, second: int = 0) -> bytes:
    return last_words(workers, second)[0]
