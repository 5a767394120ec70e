"""For the fault tests: the service with one thing patched, a server that changes its mind, traffic
whose digests tell what was lost, doubled or out of order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from support.bus import Bus, Received
from support.nats_server import HOST, NatsServer
from support.wait import eventually

Message = tuple[str, bytes]


def patched(code: str) -> tuple[str, str]:
    """A ``program`` for ServiceProcess: ``code`` runs first, in the service's own process."""
    start = "import sys\nfrom alarmdigest.cli.main import main\nsys.exit(main())\n"
    return "-c", f"{code}\n{start}"


def gated(gate: Path, code: str = "") -> tuple[str, str]:
    """A service whose workers merge nothing until the file ``gate`` exists."""
    return patched(f"""
import pathlib, time
from alarmdigest.pipeline.worker import Worker
merge = Worker._merge
def wait_and_merge(self, batch):
    while not pathlib.Path({str(gate)!r}).exists():
        self.sign_of_life()
        time.sleep(0.01)
    merge(self, batch)
Worker._merge = wait_and_merge
{code}""")


class ChangingServer(NatsServer):
    """A server whose extra configuration is changed while it runs or between two starts."""

    def __enter__(self) -> ChangingServer:
        super().__enter__()
        return self

    def change(self, extra: str) -> None:
        """For the next start."""
        self._config = f'server_name: "{self.name}"\n{extra}\n'

    def reload(self, extra: str) -> None:
        """Now, without a restart; returns when it is in force."""
        self.change(extra)
        listen = f'host: "{HOST}"\nport: {self.port}\n'
        Path(self._folder.name, "server.conf").write_text(listen + self._config, "utf-8")
        before = self.log.count("Reloaded server configuration")
        os.kill(self.pid, signal.SIGHUP)
        eventually(
            lambda: self.log.count("Reloaded server configuration") > before, what="the reload"
        )

    def url_of(self, user: str) -> str:
        return f"nats://{user}:s3cret@{HOST}:{self.port}"


def users(service_permissions: str = "") -> str:
    """Configuration with two users: ``service``, who may do what this says, and ``bus``."""
    return (
        "authorization { users: [\n"
        f'{{user: service, password: "s3cret", permissions: {{ {service_permissions} }}}}\n'
        '{user: bus, password: "s3cret"}\n'
        "] }"
    )


def event(user: str, alarm: str) -> Message:
    body = b'{"AlarmID":"%b","UserID":"%b","Status":"CRITICAL","ChangedAt":"2021-06-07T20:40:15Z"}'
    return "AlarmStatusChanged", body % (alarm.encode(), user.encode())


def request(user: str) -> Message:
    return "SendAlarmDigest", b'{"UserID":"%b"}' % user.encode()


def pairs(numbers: Iterable[int], users: int = 7, padding: str = "") -> list[Message]:
    """For each number a new alarm and a request: a digest with one alarm, numbered."""
    messages = []
    for number in numbers:
        user = f"user-{number % users}"
        messages += [event(user, f"{padding}{number}"), request(user)]
    return messages


def publish_surely(bus: Bus, messages: Iterable[Message]) -> None:
    """Publish, and return when the server has passed all of it on.

    Flushed twice: nats-py writes the PING of a first flush at once, past what it still holds back.
    """
    bus.publish_all(messages)
    bus.flush()


def numbers(digests: Iterable[Received]) -> list[int]:
    """The numbers that ``pairs`` gave the alarms of these digests, without its padding."""
    return [
        int(alarm["AlarmID"].rpartition(".")[2])
        for digest in digests
        for alarm in digest.json["ActiveAlarms"]
    ]


def once_each(digests: Iterable[Received]) -> list[Received]:
    """Without the copies of a message: those with an id that was there before."""
    first: dict[str, Received] = {}
    for digest in digests:
        kept = first.setdefault(digest.headers["Nats-Msg-Id"], digest)
        assert kept.body == digest.body, "one id for two digests"
    return list(first.values())


def assert_in_order_for_each_user(digests: Iterable[Received]) -> None:
    """Every alarm once, and those of one user in the order of their requests."""
    of_user: dict[str, list[int]] = {}
    for digest in digests:
        # A cut between an event and its request makes a digest with two alarms; all have the same
        # ChangedAt, so within one digest they are sorted by their ids as text.
        of_user.setdefault(digest.json["UserID"], []).extend(sorted(numbers([digest])))
    for user, found in of_user.items():
        assert found == sorted(set(found)), f"doubled or out of order for {user}: {found}"
