"""From a rule of a real Prometheus to a mail at a real mail server, through every part as a process
of its own; and with every part killed in turn, under a sender that repeats as Alertmanager does."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import count
from random import Random
from typing import Any

import pytest
from support.alertmanager import Alertmanager, Exporter, Prometheus
from support.bridge import BridgeProcess, Streams, alert, webhook
from support.deliver import DeliverProcess, routes
from support.nats_server import HOST, NatsServer, free_port
from support.paths import ROOT
from support.receivers import MailServer, text_of
from support.scheduler import SchedulerProcess, schedule
from support.service import ServiceProcess
from support.wait import eventually

pytestmark = pytest.mark.deliver

MAIL_FILES = ROOT / "deploy" / "mail"
# A message with all of its rows, so that none is counted only.
ALL_ROWS = "[messages]\nmost_rows = 10000\n"
LATE_S = 5.0


class WholeWay:
    """All parts behind Alertmanager, two of those that take turns."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(NatsServer())
        url = self.server.url
        self.mails = stack.enter_context(MailServer())
        self.service = ServiceProcess(
            url, mode="stream", options=["--checkpoint-interval", "200ms"]
        )
        self.bridge = BridgeProcess(url, listen=f"{HOST}:{free_port()}")
        self.schedulers = [SchedulerProcess(url) for _ in range(2)]
        target = {"mail": self.mails.url("{UserID}@example.com")}
        self.delivers = [DeliverProcess(url, routes=routes(target, ALL_ROWS)) for _ in range(2)]
        for process in self.processes.values():
            stack.callback(process.end)
            process.start()

    @property
    def processes(self) -> dict[str, ServiceProcess]:
        one, two = self.schedulers
        first, second = self.delivers
        return {
            "service": self.service,
            "bridge": self.bridge,
            "a scheduler": one,
            "the other scheduler": two,
            "a deliver": first,
            "the other deliver": second,
        }

    def told(self) -> list[Mail]:
        return [Mail.of(text_of(one)) for one in list(self.mails.mails)]

    def next_mail(self, known: int, timeout: float) -> Mail:
        """The one after so many."""
        eventually(lambda: len(self.mails.mails) > known, timeout=timeout, what="a mail")
        return self.told()[known]


@dataclass(frozen=True)
class Mail:
    """What a mail says: the alarms of each section, as (status, name)."""

    new: list[tuple[str, str]] = field(default_factory=list)
    still_active: list[tuple[str, str]] = field(default_factory=list)
    cleared: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> Mail:
        found = cls()
        section: list[tuple[str, str]] = []
        titles = {
            "NEW": found.new,
            "STILL ACTIVE": found.still_active,
            "CLEARED SINCE TOLD": found.cleared,
        }
        for line in text.splitlines():
            if match := re.fullmatch(r"([A-Z ]+) \(\d+\)", line):
                section = titles[match[1]]
            elif match := re.match(r"(CRITICAL|WARNING|CLEARED)  ([\w-]+)", line):
                section.append((match[1], match[2]))
        return found


@pytest.fixture
def way() -> Iterator[WholeWay]:
    with ExitStack() as stack:
        yield WholeWay(stack)


class Rules:
    """A real Prometheus with the rules that are shipped, and a real Alertmanager."""

    def __init__(self, stack: ExitStack, way: WholeWay) -> None:
        self._exporter = stack.enter_context(Exporter())
        self._numbers = {"disk_used_ratio": 0.5, "certificate_days_left": 90, "backup_age_hours": 3}
        self.set()
        host, port = way.bridge.address
        alertmanager = Alertmanager(f"http://{host}:{port}/alertmanager")
        prometheus = Prometheus(alertmanager, self._exporter, rules=MAIL_FILES / "rules.yml")
        stack.enter_context(alertmanager)
        stack.enter_context(prometheus)

        def knows_alertmanager() -> bool:
            """Which takes it five seconds after its start."""
            with urllib.request.urlopen(f"{prometheus.url}/api/v1/alertmanagers") as answer:
                return bool(json.load(answer)["data"]["activeAlertmanagers"])

        eventually(knows_alertmanager, timeout=30, what="an Alertmanager of Prometheus")

    def set(self, **numbers: float) -> None:
        self._numbers |= numbers
        lines = [f'sample_{name}{{host="db1"}} {value}\n' for name, value in self._numbers.items()]
        self._exporter.more = "".join(lines)


@pytest.mark.timeout(180)
def test_a_firing_rule_becomes_one_mail_in_time(way: WholeWay) -> None:
    window_s = 3.0
    schedule(way.server.url, "set", "--default", "--within", f"{window_s:g}s")
    with ExitStack() as stack:
        rules = Rules(stack, way)

        rules.set(disk_used_ratio=0.97)
        began = time.monotonic()
        assert way.next_mail(0, 60) == Mail(new=[("CRITICAL", "DiskFull")])
        assert window_s - 0.5 < time.monotonic() - began < window_s + LATE_S

        # Several alerts within a window are one mail, which also says what else is wrong.
        rules.set(certificate_days_left=7)
        eventually(lambda: "CertificateExpires" in names(way), what="the first of two")
        rules.set(backup_age_hours=30)
        assert way.next_mail(1, 60) == Mail(
            new=[("WARNING", "CertificateExpires"), ("WARNING", "BackupTooOld")],
            still_active=[("CRITICAL", "DiskFull")],
        )

        # What has ended, what goes on, and what has come anew, in one mail.
        rules.set(backup_age_hours=3)
        eventually(lambda: names(way)["BackupTooOld"] == 2, what="the end of one", timeout=30)
        rules.set(disk_used_ratio=0.5, backup_age_hours=30)
        assert way.next_mail(2, 60) == Mail(
            new=[("WARNING", "BackupTooOld")],
            still_active=[("WARNING", "CertificateExpires")],
            cleared=[("CLEARED", "DiskFull")],
        )

        # An end alone is no reason for a mail.
        rules.set(certificate_days_left=90)
        eventually(lambda: names(way)["CertificateExpires"] == 2, what="its end", timeout=30)
        eventually(
            lambda: all(one.metric("alarmdigest_scheduler_waiting") == 0 for one in way.schedulers),
            what="nobody who waits",
        )
        assert len(way.mails.mails) == 3
    [*_, last] = way.mails.mails
    assert last["To"] == "ada@example.com"
    assert "1 warning" in last["Subject"]


def names(way: WholeWay) -> Counter[str]:
    """How many events of each alert the stream has."""
    streams = Streams(way.server, create=False)
    try:
        return Counter(alarm.partition("{")[0] for _user, alarm, _status, _at in streams.events())
    finally:
        streams.close()


# -- whatever dies ---------------------------------------------------------------------------------

SECONDS = 30.0
USERS = 40
SETTLE_S = 150.0


class Sender(threading.Thread):
    """As an Alertmanager: sends each alert until the answer is 200, and one after the other.

    An alarm that was told is resolved and fires anew, which is to be told once more. ``told`` are
    the names that mails have shown, and how often.
    """

    def __init__(self, bridge: BridgeProcess) -> None:
        super().__init__()
        self._address = bridge.address
        self.stopping = threading.Event()
        self.fired: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self._began: dict[str, str] = {}
        self.repeats = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._send_all()
        except BaseException as error:  # told by the test
            self.failure = error
            raise

    def _send_all(self) -> None:
        random, numbers = Random(3), count()
        while not self.stopping.wait(0.03):
            again = [name for name, times in self.told.copy().items() if times == self.fired[name]]
            if again and random.random() < 0.5:
                name = random.choice(again)
                began = self._began[name]
                self._send(name, "resolved", startsAt=began, endsAt=now())
            else:
                name = f"alarm-{next(numbers):05}"
            self._began[name] = now()
            self._send(name, "firing", startsAt=self._began[name])
            self.fired[name] += 1

    def _send(self, name: str, status: str, **times: str) -> None:
        user = f"user-{int(name[-5:]) % USERS}"
        body = webhook({**alert(name, status=status, severity="critical", team=user), **times})
        while not self._is_taken(body):
            self.repeats += 1
            time.sleep(0.1)

    def _is_taken(self, body: dict[str, Any]) -> bool:
        connection = http.client.HTTPConnection(*self._address, timeout=15)
        try:
            connection.request("POST", "/alertmanager", json.dumps(body))
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        assert status in (200, 500, 503), status
        return status == 200


def now() -> str:
    return datetime.now(timezone.utc).isoformat()


class Inbox:
    """All mails, each Message-ID once."""

    def __init__(self, mails: MailServer) -> None:
        self._mails = mails
        self._read = 0
        self._seen: set[str] = set()
        self.doubles = 0
        self.told: Counter[str] = Counter()

    def look(self) -> Counter[str]:
        """How often each alarm was told as new."""
        fresh = self._mails.mails[self._read :]
        self._read += len(fresh)
        for mail in fresh:
            if mail["Message-ID"] in self._seen:
                self.doubles += 1
                continue
            self._seen.add(mail["Message-ID"])
            self.told.update(name for _status, name in Mail.of(text_of(mail)).new)
        return self.told


@pytest.mark.timeout(400)
def test_whole_way_kills(way: WholeWay) -> None:
    """Each part is killed at random moments, all in turn. Every change is told in one mail."""
    schedule(way.server.url, "set", "--default", "--within", "1s", "--critical-within", "300ms")
    random, kills = Random(11), Counter[str]()
    sender, inbox = Sender(way.bridge), Inbox(way.mails)
    sender.start()
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or kills.total() < 2 * 7:
            parts = [*way.processes, "server"]
            random.shuffle(parts)
            for name in parts:
                time.sleep(random.uniform(0.3, 2.0))  # when it happens is up to chance
                kills[name] += 1
                kill(way, name)
                sender.told = inbox.look().copy()
    finally:
        sender.stopping.set()
        sender.join()
    for process in way.processes.values():
        if not process.is_running:
            process.start(ready=False)
    assert sender.failure is None
    with suppress(AssertionError):  # the next one says what differs
        eventually(
            lambda: inbox.look() == sender.fired, timeout=SETTLE_S, interval=0.5, what="all mails"
        )
    lost, twice = sender.fired - inbox.told, inbox.told - sender.fired
    assert (lost, twice) == (Counter(), Counter())
    print(
        f"\n{sender.fired.total()} changes of {len(sender.fired)} alarms, {kills.total()} kills, "
        f"{sender.repeats} repeats, {len(way.mails.mails)} mails, {inbox.doubles} of them twice"
    )
    streams = Streams(way.server, create=False)
    try:
        assert not streams.bodies("ALARM_UNDELIVERED")
        assert not streams.bodies("ALARM_REJECTED")
    finally:
        streams.close()
    assert sender.repeats > 0
    assert len(sender.fired) > 200
    # A kill leaves at most those in doubt that were being sent, four at once to one server.
    in_doubt = sum(kills[name] for name in ("a deliver", "the other deliver", "server"))
    assert inbox.doubles <= 4 * in_doubt


def kill(way: WholeWay, name: str) -> None:
    """kill -9, and a start at once; it need not be ready."""
    if name == "server":
        way.server.kill()
        way.server.start()
        return
    process = way.processes[name]
    if process.is_running:
        process.kill()
    process.start(ready=False)
