"""A data folder that belongs to somebody else: no replica goes on from it, no snapshot is made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from histories import event_body, request_body
from model import Event, Request, Status
from support.bus import Bus
from support.command import run_command
from support.group_service import LEADERS, GroupService
from support.judge import DIGESTS
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.stream_service import StreamService
from support.streams import update
from support.wait import eventually

SAME = ("--retention", "300ms", "--clock-skew", "50ms")
OWN_WRITES = 'alarmdigest_checkpoint_stage_seconds_count{stage="write"}'


def publish(url: str, user: str) -> None:
    with Bus(url) as bus:
        bus.publish("AlarmStatusChanged", event_body(Event(user, "a", Status.CRITICAL, 1)))
        bus.publish("SendAlarmDigest", request_body(Request(user)))
        bus.wait_for_digests(1)


@pytest.fixture
def group() -> Iterator[GroupService]:
    """One replica of the group ``mail``, which leads and has read something."""
    with NatsServer() as server, GroupService([server.url], replicas=1) as running:
        running.leader()
        publish(server.url, "here")
        yield running


GROUP_OTHER = ("--group", "other", "--replica-name", "x")


@pytest.fixture(params=["single", "other", "core"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """What a service on another server has left, and which it was."""
    options = {"single": (), "other": GROUP_OTHER, "core": ("--mode", "core")}[request.param]
    with NatsServer() as server, StreamService(server.url, *options) as service:
        publish(server.url, "there")
        assert service.stop() == 0
        shutil.copytree(service.data_dir, tmp_path / "data")
    return request.param, tmp_path / "data"


def refused(url: str, folder: Path, *options: str) -> str:
    service = ServiceProcess(url, mode="stream", options=(*SAME, *options))
    shutil.copytree(folder, service.data_dir)
    service.start(ready=False)
    try:
        assert service.wait() == 2, service.log
    finally:
        if service.process.poll() is None:
            service.kill()
    return service.log


def test_a_replica_does_not_go_on_from_it(group: GroupService, folder: tuple[str, Path]) -> None:
    whose, data = folder
    log = refused(group.url, data, "--group", "mail", "--replica-name", "new")
    what = {
        "single": "holds another stream's state",
        "other": "holds the state of the group other",
        "core": "holds a state of core mode",
    }
    assert what[whose] in log
    assert "choose another --data-dir" in log


def test_no_snapshot_is_made_of_it(group: GroupService, folder: tuple[str, Path]) -> None:
    whose, data = folder
    for options in (("--group", "mail"), ("--group", "nosuch"), ()):
        where = ("--server", group.url, "--data-dir", str(data))
        made = run_command("snapshot", *where, *options)
        assert made.returncode == 2, made.stdout
        right = options == () and whose == "single"
        told = "nobody could start from it" if right else "the store in"
        assert told in made.stderr
    for options in (("--group", "mail"), ("--group", "other"), ()):
        shown = run_command("snapshot", "--list", "--server", group.url, *options)
        assert "single:" not in shown.stdout
        assert "other." not in shown.stdout


@pytest.mark.group
def test_a_single_service_becomes_a_group_with_its_folder() -> None:
    with NatsServer() as server, StreamService(server.url) as service:
        publish(server.url, "u")
        assert service.stop() == 0
        with Bus(server.url) as bus:
            update(bus, DIGESTS, subjects=["AlarmDigest", f"{LEADERS}mail"], allow_atomic=True)
        service.change("--group", "mail", "--replica-name", "a")
        service.start()
        service.wait_for_log("leading the group")
        assert "holds another" not in service.log
        # At rest there is one every ten seconds.
        eventually(lambda: service.metric(OWN_WRITES) > 0, timeout=30.0, what="a checkpoint")
        assert service.stop() == 0
        # And from then on it is the group's.
        shown = run_command("snapshot", "--server", server.url, "--data-dir", str(service.data_dir))
        assert "say --group mail" in shown.stderr
