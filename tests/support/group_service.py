"""Several replicas of one group, for tests that end them, and the verdict on what they wrote."""

from __future__ import annotations

import itertools
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType, TracebackType
from typing import Any

from nats.errors import Error as NatsPyError

from support.command import run_command
from support.feeder import Feeder
from support.jetstream import asking
from support.judge import (
    ALARMS,
    DIGESTS,
    REJECTED,
    Expected,
    Stored,
    assert_exact,
    judge,
    read_stream,
    stream_size,
)
from support.nats_server import NatsServer
from support.stream_service import RETENTION_NS, SKEW_NS, StreamService
from support.wait import eventually

LEADERS = "AlarmDigestLeader."


def read_in_time(url: str, name: str) -> list[Stored]:
    """As ``read_stream``, also where a cluster is about to choose a leader."""

    def read() -> tuple[list[Stored]] | None:
        try:
            return (read_stream(url, name),)
        except NatsPyError:
            return None

    [found] = eventually(read, timeout=30, interval=0.2, what=f"an answer of {name}") or ([],)
    return found


def digests_of(url: str) -> list[Stored]:
    """What the digest stream holds beside leader messages."""
    return [one for one in read_in_time(url, DIGESTS) if not one.subject.startswith(LEADERS)]


def elections_of(url: str) -> list[Stored]:
    return [one for one in read_in_time(url, DIGESTS) if one.subject.startswith(LEADERS)]


def create_digests(url: str, **more: Any) -> None:
    """The digest stream of a group, whose duplicate window hides nothing that is sent again."""
    with asking(url) as js:
        js.create_stream(
            {
                "name": DIGESTS,
                "subjects": ["AlarmDigest", f"{LEADERS}mail"],
                "storage": "file",
                "allow_atomic": True,
                "duplicate_window": 100_000_000,
                **more,
            }
        )


class GroupService:
    """Replicas ``a``, ``b``, … each with a folder of its own, on the same servers."""

    def __init__(
        self,
        urls: Sequence[str],
        *options: str,
        replicas: int = 3,
        workers: int = 3,
        first_url_only: bool = False,
        wait_until_ready: bool = True,
        program: Sequence[str] = ("-m", "alarmdigest"),
        programs: Mapping[str, Sequence[str]] = MappingProxyType({}),
        failpoints: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Each replica's first server is another one of ``urls``; with ``first_url_only`` it knows
        no other. ``programs`` are those of
        replicas that run another one than ``program``; ``failpoints`` are for their first start."""
        self.url = urls[0]
        self.replicas: list[StreamService] = []
        self._options: list[tuple[str, ...]] = []
        self._workers = workers
        self._wait_until_ready = wait_until_ready
        for number in range(replicas):
            first = number % len(urls)
            others = [] if first_url_only else [*urls[first + 1 :], *urls[:first]]
            servers = [part for url in others for part in ("--server", url)]
            name = "abcdefg"[number]
            service = StreamService(
                urls[first], workers=workers, program=programs.get(name, program)
            )
            self.replicas.append(service)
            self._options.append((*servers, "--group", "mail", "--replica-name", name, *options))
            service.change(
                *self._options[number], workers=workers, failpoint=failpoints.get(name, "")
            )

    def __enter__(self) -> GroupService:
        try:
            self.start(ready=self._wait_until_ready)
            if self._wait_until_ready:
                # Two that start at once may both be elected, one after the other.
                eventually(self._is_settled, timeout=30.0, interval=0.05, what="one leader")
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _is_settled(self) -> bool:
        """One leads, and all others have heard of it: nobody stands any more."""
        leads = [one.metric("alarmdigest_leader") for one in self.replicas]
        heard = [one.metric("alarmdigest_group_has_leader") for one in self.replicas]
        return sum(leads) == 1 and all(heard)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, replica in enumerate(self.replicas):
            if error is not None:
                sys.stderr.write(f"---- replica {'abcdefg'[number]}\n")
            if replica.is_running:
                with suppress(ProcessLookupError):
                    replica.process.send_signal(signal.SIGCONT)
            replica.__exit__(kind, error, trace)

    def start(self, *, ready: bool = True) -> None:
        """All that do not run."""
        started = [one for one in self.replicas if not one.is_running]
        for replica in started:
            replica.start(ready=False)
        for replica in started if ready else ():
            replica.wait_for_log(r"\bready\b")

    def arm(self, failpoint: str) -> None:
        """From the next start on each replica has this failpoint."""
        for replica, options in zip(self.replicas, self._options, strict=True):
            replica.change(*options, workers=self._workers, failpoint=failpoint)

    def disarm(self) -> None:
        self.arm("")

    @property
    def running(self) -> list[StreamService]:
        return [one for one in self.replicas if one.is_running]

    def leader(self, *, timeout: float = 20.0) -> StreamService:
        """The running replica that led last, once there is one."""

        def found() -> StreamService | None:
            last: tuple[int, StreamService] | None = None
            for replica in self.running:
                role = re.findall(r"leading the group.* token=(\d+)|(not elected)", replica.log)
                if role and role[-1][0] and (last is None or int(role[-1][0]) > last[0]):
                    last = int(role[-1][0]), replica
            return last[1] if last else None

        leader = eventually(found, timeout=timeout, what="a leader")
        assert leader is not None
        return leader

    def settle(
        self,
        feeder: Feeder,
        *,
        rejected_twice: bool = True,
        removed: Sequence[Stored] = (),
        timeout: float = 40.0,
    ) -> Expected:
        """End the traffic, let the group catch up, drain it, and judge all that it has written.

        ``removed`` are messages that the input stream held before those that it holds now.
        """
        feeder.finish()
        whole = [*removed, *read_in_time(self.url, ALARMS)]
        expected = judge(whole, skew_ns=SKEW_NS, retention_ns=RETENTION_NS)

        def enough() -> bool:
            assert self.running, "all replicas have ended"
            try:
                return (
                    len(digests_of(self.url)) >= expected.digests
                    and stream_size(self.url, REJECTED) >= expected.refusals
                )
            except NatsPyError:
                return False

        with suppress(AssertionError):
            eventually(enough, timeout=timeout, interval=0.05, what="all that is expected")
        codes = [replica.stop() for replica in self.running]
        rejected = read_in_time(self.url, REJECTED)
        if rejected_twice:
            # At a change of leaders they may be published again, with the same id.
            rejected = list({one.headers["Nats-Msg-Id"]: one for one in rejected}.values())
        assert_exact(expected, digests_of(self.url), rejected)
        assert codes == [0] * len(codes)
        return expected


def let_lead(server: NatsServer, group: GroupService, name: str, replica: StreamService) -> None:
    """Have another one elected, unless it leads already."""
    if group.leader() is not replica:
        done = run_command("step-down", "--server", server.url, "--to", name)
        assert done.returncode == 0, done.stderr
    assert group.leader() is replica


def longest_wait_s(url: str, what: str, tell: Callable[[str], None]) -> float:
    """The longest time between two digests, by the stream's clock, in seconds; told, too."""
    times = [one.time_ns for one in digests_of(url)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    longest = max(gaps, default=0) / 1e9
    tell(f"{what}: longest time without a digest: {longest:.2f} s")
    return longest


def pause(service: StreamService, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after so long."""
    service.process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= end, timeout=seconds + 5, what="the pause")
    service.process.send_signal(signal.SIGCONT)
