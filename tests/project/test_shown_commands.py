"""The commands that the documents show, run as they stand there.

Only places are others: of the server, the service, the data. ``test_docs.py`` looks at the options
of those that cannot be run here.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from project.test_docs import DOCUMENTS, commands
from support.bus import Bus
from support.command import run_command
from support.faults import event, numbers, pairs
from support.nats_server import NatsServer
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.wait import eventually

SHOWN = list(dict.fromkeys(one for document in DOCUMENTS for one in commands(document)))
OURS = [one for one in SHOWN if re.match(r"\S*bin/alarmdigest |alarmdigest ", one)]
NATS = [one for one in SHOWN if one.startswith("nats ")]

# Those that run until they are ended. The first two are what all others here are run against.
SERVICES = (
    "--workers 12",
    "--mode stream",
    "run --server nats://nats.example.com:4222",
    "rejected --follow --body",
    "--group mail",
    "bridge",  # tests/connect/bridge
    "scheduler",  # tests/connect/schedule
    "deliver",  # tests/connect/deliver
)
# These need Cassandra: tests/store/cassandra/test_service.py runs them.
OF_CASSANDRA = ("--store cassandra", "copy-store")
# These need a group: tests/replication/test_group_operation.py and test_try_replicas.py run them.
OF_A_GROUP = ("members ", "step-down ", "emulate --server nats://127.0.0.1:4231")


RUN_HERE = [
    one
    for one in OURS
    if not any(f"alarmdigest {words}" in one for words in SERVICES + OF_A_GROUP + OF_CASSANDRA)
]


class Running(NamedTuple):
    url: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service in stream mode that has sent and refused something."""
    home = str(tmp_path_factory.mktemp("home"))
    with (
        NatsServer() as server,
        ServiceProcess(
            server.url, mode="stream", options=["--checkpoint-interval", "100ms"]
        ) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all([*pairs(range(20)), *[("AlarmStatusChanged", b"{")] * 20])
        assert len(numbers(bus.wait_for_digests(20))) == 20
        bus.wait_for_rejected(20)
        bus.publish_all([event("ada", "disk-6")])
        own = {
            "NATS_URL": server.url,
            "HOME": home,
            "XDG_CONFIG_HOME": home,
            "ALARMDIGEST_DATA_DIR": str(service.data_dir),
            "ALARMDIGEST_HTTP": service.wait_for_log(r"on=http://(\S+)")[1],
        }
        eventually(lambda: run_command("show", "ada", **own).returncode == 0, what="a checkpoint")
        yield Running(server.url, CLEAN_ENVIRONMENT | own)


def run(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, f"{shlex.join(words)}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("command", RUN_HERE)
def test_our_commands_do_what_they_are_shown_for(
    command: str, running: Running, tmp_path: Path
) -> None:
    words = shlex.split(command)[1:]
    for option in ("--data-dir", "--http", "--context"):  # the environment has ours
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    if words[0] == "backup":
        words[1] = str(tmp_path / "backup")
    assert run([sys.executable, "-m", "alarmdigest", *words], running.environment)


def test_most_of_our_commands_are_run() -> None:
    names = {re.split(r"alarmdigest +", one)[-1].split()[0] for one in RUN_HERE}
    assert names >= {"verify", "emulate", "status", "show", "rejected", "backup", "check-config"}


def test_the_nats_tool_takes_what_we_show_of_it(running: Running, tmp_path: Path) -> None:
    if shutil.which("nats") is None:
        can = os.environ.get("CI") and shutil.which("go")
        assert not can, "CI could have the nats tool, and has not"
        pytest.skip("needs the nats tool: go install github.com/nats-io/natscli/nats@latest")
    assert len(NATS) >= 7
    [subscribe] = [one for one in NATS if one.startswith("nats sub ")]
    seen = tmp_path / "seen"
    with seen.open("wb") as output:
        subscriber = subprocess.Popen(
            shlex.split(subscribe), stdout=output, stderr=output, env=running.environment
        )
    try:
        with Bus(running.url) as bus, NatsServer() as empty:

            def subscribed() -> bool:
                bus.publish_all([("AlarmDigest", b"probe")])
                return "probe" in seen.read_text()

            eventually(subscribed, interval=0.1, what="the subscription of the tool")
            for command in NATS:
                if command.startswith("nats stream view "):
                    view(command, running.environment)
                elif command.startswith("nats stream add "):
                    run(shlex.split(command), running.environment | {"NATS_URL": empty.url})
                elif command != subscribe:
                    run(shlex.split(command), running.environment)
            eventually(lambda: '"disk-7"' in seen.read_text(), what="the digest that is shown")
    finally:
        subscriber.kill()
        subscriber.wait()


def view(command: str, environment: dict[str, str]) -> None:
    """It asks at a terminal after each page."""
    outer, inner = pty.openpty()
    viewer = subprocess.Popen(
        shlex.split(command), stdin=inner, stdout=inner, stderr=inner, env=environment
    )
    os.close(inner)
    told = b""
    while b"Alarmdigest-Reason: json" not in told:
        told += os.read(outer, 4096)
    viewer.kill()
    viewer.wait()
    os.close(outer)
