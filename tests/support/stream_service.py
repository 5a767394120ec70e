"""The service in stream mode, for tests that kill it: what it is started with, and the verdict."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from support.feeder import MS_NS, Feeder
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
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.wait import eventually

# Short, so that in a test of seconds times are clamped and alarms are forgotten.
SKEW_NS = 50 * MS_NS
RETENTION_NS = 300 * MS_NS

OPTIONS = [
    *("--mode", "stream"),
    *("--store", "lmdb"),
    *("--checkpoint-interval", "200ms"),
    *("--clock-skew", f"{SKEW_NS // MS_NS}ms"),
    *("--retention", f"{RETENTION_NS // MS_NS}ms"),
    *("--ping-interval", "1s"),
]


class StreamService(ServiceProcess):
    """``alarmdigest --mode stream`` on an LMDB store that outlives ``kill`` and ``start``.

    Its options and its failpoint may be others at the next start.
    """

    def __init__(
        self,
        url: str,
        *options: str,
        workers: int = 4,
        failpoint: str = "",
        program: Sequence[str] = ("-m", "alarmdigest"),
    ) -> None:
        super().__init__(url, program=program)
        self._base = list(self._arguments)
        self.change(*options, workers=workers, failpoint=failpoint)

    def change(
        self,
        *options: str,
        workers: int = 4,
        failpoint: str = "",
        program: Sequence[str] | None = None,
    ) -> None:
        """For the next start."""
        if program is not None:
            end = self._base.index("run")
            self._base = [self._base[0], *program, *self._base[end:]]
        self._arguments = [*self._base, *OPTIONS, "--workers", str(workers), *options]
        point = {"ALARMDIGEST_FAILPOINT": failpoint} if failpoint else {}
        self._environment = CLEAN_ENVIRONMENT | point

    def __enter__(self) -> StreamService:
        super().__enter__()
        return self


def let_time_pass(seconds: float) -> None:
    """For what depends on the clock of the server and of nothing that could be watched."""
    end = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= end, timeout=seconds + 5, what="time to pass")


def settle(
    url: str,
    service: ServiceProcess,
    feeder: Feeder,
    *,
    split_bytes: int | None = None,
    removed: Sequence[Stored] = (),
    timeout: float = 30.0,
) -> Expected:
    """End the traffic, let the service catch up, drain it, and judge all that it has ever written.

    Returns what was expected and found. ``url`` is the server's own, past any proxy. ``removed``
    are messages that the input stream held before those that it holds now.
    """
    feeder.finish()
    whole = [*removed, *read_stream(url, ALARMS)]
    expected = judge(whole, skew_ns=SKEW_NS, retention_ns=RETENTION_NS)

    def enough() -> bool:
        assert service.process.poll() is None, f"the service has ended:\n{service.log}"
        return (
            stream_size(url, DIGESTS) >= expected.digests
            and stream_size(url, REJECTED) >= expected.refusals
        )

    # When too few come, the judge knows better than a time-out which ones.
    with suppress(AssertionError):
        eventually(enough, timeout=timeout, interval=0.05, what="all that is expected")
    code = None
    if service.process.poll() is None:
        code = service.stop()
    try:
        assert_exact(
            expected, read_stream(url, DIGESTS), read_stream(url, REJECTED), split_bytes=split_bytes
        )
        assert code == 0, f"the drain ended with exit code {code}"
    except AssertionError:
        sys.stderr.write(service.log)
        raise
    return expected


def assert_worth_judging(expected: Expected, *, digests: int = 100) -> None:
    """The traffic was such that a mistake would have shown."""
    assert expected.digests >= digests
    assert expected.clamped > 0
    reasons = {reason for _body, reason, _subject in expected.refused}
    assert reasons == {"json", "schema", "too_long", "status", "changed_at"}


def sizes(url: str, names: Sequence[str] = (DIGESTS, REJECTED)) -> list[int]:
    """How many messages each of these streams holds."""
    return [stream_size(url, name) for name in names]
