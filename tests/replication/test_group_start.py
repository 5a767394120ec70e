"""A replica that would not be one is refused at the start, by name and with a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from support.command import run_command
from support.group_service import GroupService, elections_of
from support.jetstream import asking
from support.judge import DIGESTS
from support.nats_server import NatsServer
from support.service import ServiceProcess

from alarmdigest.replication.subjects import LEADERS

IN_GROUP = ("--group", "mail", "--replica-name", "new")


@pytest.fixture
def group() -> Iterator[GroupService]:
    """One replica that leads."""
    with NatsServer() as server, GroupService([server.url], replicas=1) as running:
        running.leader()
        yield running


def refused(url: str, *options: str, mode: str = "stream") -> str:
    """The log of a service that ends at once with exit code 2."""
    service = ServiceProcess(url, mode=mode, options=options)
    service.start(ready=False)
    try:
        assert service.wait() == 2, service.log
    finally:
        if service.process.poll() is None:
            service.kill()
    assert "Traceback" not in service.log
    return service.log


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--retention", "1h"), r"retention \(300ms there, 1h here\)"),
        (("--clock-skew", "2h"), "clock_skew"),
        (("--split-size", "20KiB"), "split_bytes"),
        (("--publish-empty",), "publish_empty"),
        (("--rejected-subject", "Other", "--rejected-stream", "OTHER"), "rejected_stream"),
    ],
)
def test_other_settings_than_the_leaders(
    group: GroupService, options: tuple[str, ...], told: str
) -> None:
    same = ("--retention", "300ms", "--clock-skew", "50ms")
    log = refused(group.url, *IN_GROUP, *same, *options)
    assert re.search(rf"goes by other settings, told by its leader a: .*{told}", log)
    assert "all replicas need the same, and a ran with them a moment ago" in log
    checked = run_command("check-config", "--server", group.url, *IN_GROUP, *same, *options)
    assert checked.returncode == 2
    assert re.search(told, checked.stderr)


def test_check_config_finds_nothing_wrong_with_what_a_start_takes(group: GroupService) -> None:
    same = ("--retention", "300ms", "--clock-skew", "50ms")
    checked = run_command("check-config", "--server", group.url, *IN_GROUP, *same)
    assert checked.returncode == 0
    assert "all is well" in checked.stderr
    alone = run_command("check-config", "--server", group.url)
    assert alone.returncode == 2
    assert "a group publishes to the stream ALARM_DIGESTS" in alone.stderr


def test_another_group_on_the_digest_stream_of_a_group(group: GroupService) -> None:
    log = refused(group.url, "--group", "other", "--replica-name", "new")
    assert "the stream ALARM_DIGESTS belongs to the group 'mail'" in log


def test_no_group_on_the_streams_of_a_group(group: GroupService) -> None:
    log = refused(group.url)
    assert "a group publishes to the stream ALARM_DIGESTS" in log
    for replica in group.running:
        replica.stop()
    command = re.search(r"nats stream purge (\S+) --subject '(\S+)'", log)
    assert command is not None
    with asking(group.url) as js:
        js.request(f"STREAM.PURGE.{command[1]}", {"filter": command[2]})
    with ServiceProcess(group.url, mode="stream") as service:
        assert service.stop() == 0


def test_a_digest_stream_without_atomic_batches() -> None:
    with NatsServer() as server:
        with asking(server.url) as js:
            js.create_stream(
                {"name": DIGESTS, "subjects": ["AlarmDigest", f"{LEADERS}.mail"], "storage": "file"}
            )
        log = refused(server.url, *IN_GROUP)
        assert f"nats stream edit {DIGESTS} --allow-batch" in log


def test_a_digest_stream_that_does_not_capture_the_leader_subject() -> None:
    with NatsServer() as server:
        with asking(server.url) as js:
            js.create_stream(
                {
                    "name": DIGESTS,
                    "subjects": ["AlarmDigest"],
                    "storage": "file",
                    "allow_atomic": True,
                }
            )
        log = refused(server.url, *IN_GROUP)
        assert f"{LEADERS}.mail" in log
        assert f"nats stream edit {DIGESTS}" in log


def test_core_mode_has_no_groups() -> None:
    with NatsServer(jetstream=False) as server:
        assert "--group needs streams" in refused(server.url, *IN_GROUP, mode="core")


def test_a_leader_message_names_its_leader(group: GroupService) -> None:
    [election] = elections_of(group.url)
    assert election.subject == f"{LEADERS}.mail"
    assert b'"name":"a"' in election.body
