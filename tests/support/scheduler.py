"""The real scheduler as a process of its own, and the command that changes its schedules."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

from alarmdigest._ext import timestamps
from support.bridge import Streams
from support.service import CLEAN_ENVIRONMENT, ServiceProcess


class SchedulerProcess(ServiceProcess):
    """``python -m alarmdigest scheduler`` on a server, HTTP on a free port."""

    def __init__(
        self,
        *servers: str,
        options: Sequence[str] = (),
        failpoint: str = "",
        listen: str = "127.0.0.1:0",
    ) -> None:
        point = {"ALARMDIGEST_FAILPOINT": failpoint} if failpoint else {}
        super().__init__(environment=point)
        program = [sys.executable, "-m", "alarmdigest", "scheduler", "--listen", listen]
        self._arguments = [*program, *options]
        for server in servers:
            self._arguments += ["--server", server]

    @property
    def acting(self) -> bool:
        return self.metric("alarmdigest_scheduler_acting") == 1


def schedule(
    url: str, *arguments: str, code: int = 0, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``alarmdigest schedule``; it must end with this exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "alarmdigest", "schedule", "--server", url, *arguments],
        capture_output=True,
        text=True,
        env=CLEAN_ENVIRONMENT,
        input=text,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def event(user: str, alarm: str = "a", status: str = "WARNING", at_ns: int = 0) -> bytes:
    """Changed now, unless told otherwise."""
    return json.dumps(
        {
            "UserID": user,
            "AlarmID": alarm,
            "Status": status,
            "ChangedAt": timestamps.to_text(at_ns or time.time_ns()),
        }
    ).encode()


def digests(streams: Streams) -> list[tuple[str, tuple[str, ...]]]:
    """User and alarms of each that is stored."""
    return [
        (one["UserID"], tuple(alarm["AlarmID"] for alarm in one["ActiveAlarms"]))
        for one in streams.bodies("ALARM_DIGESTS")
    ]


def requests_by_user(streams: Streams) -> Counter[str]:
    return Counter(one["UserID"] for one in streams.bodies("ALARMS") if "AlarmID" not in one)
