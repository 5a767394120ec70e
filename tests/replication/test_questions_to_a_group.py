"""What an operator asks of three replicas, before and after another one leads: each answer is held
to what really happened."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest
from support.bus import Bus
from support.command import run_command
from support.feeder import Feeder
from support.group_service import GroupService, let_lead
from support.inputs import event, request
from support.nats_server import NatsServer
from support.stream_service import RETENTION_NS, SKEW_NS, StreamService, assert_worth_judging
from support.wait import eventually


def ask(server: NatsServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, "--server", server.url)


def answered(server: NatsServer, *arguments: str) -> dict[str, Any]:
    done = ask(server, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.group
@pytest.mark.timeout(180)
def test_ten_questions_before_and_after_a_take_over() -> None:
    with NatsServer() as server, GroupService([server.url]) as group, Bus(server.url) as bus:
        let_lead(server, group, "a", group.replicas[0])
        bus.publish_all([event("ada", "disk-7", "CRITICAL", 5), request("ada")])
        bus.wait_for_digests(1)
        bus.publish_all([event("ada", "disk-7", "CLEARED", 4), event("ada", "fan-2", "WARNING")])
        bus.publish_all([event("bob", "a", "WARNING"), ("AlarmStatusChanged", b'{"UserID":"ada"}')])
        bus.wait_for_rejected(1)
        for leader, others in ((0, (1, 2)), (1, (2,))):
            name = "abc"[leader]
            assert_answers(server, name)
            tell_of_a_trace(server, [group.replicas[leader], *(group.replicas[n] for n in others)])
            if leader == 0:
                group.replicas[0].kill()
                eventually(
                    lambda: (
                        group.replicas[1].metric("alarmdigest_leader")
                        or group.replicas[2].metric("alarmdigest_leader")
                    ),
                    timeout=30,
                    what="another leader",
                )
                let_lead(server, group, "b", group.replicas[1])
        # While nobody leads that can answer, whoever is ready does.
        group.replicas[1].process.send_signal(signal.SIGSTOP)
        found = answered(server, "users", "--due")
        group.replicas[1].process.send_signal(signal.SIGCONT)
        assert (found["replica"], found["leads"]) in (("c", False), ("c", True))
        assert [one["UserID"] for one in found["top"]] == ["ada", "bob"]
        # To forget, and what is left then: of all replicas.
        assert ask(server, "forget", "ada").returncode == 0
        assert ask(server, "clear", "bob", "a").returncode == 0
        eventually(
            lambda: ask(server, "show", "ada", "--from", "service").returncode == 1,
            what="nobody to know her",
        )
        last = json.loads(ask(server, "history", "ada", "--json").stdout.splitlines()[-1])
        assert (last["kind"], last["outcome"]) == ("forget", "forgotten")
        eventually(
            lambda: answered(server, "users", "--active")["top"] == [], what="nothing active"
        )


def assert_answers(server: NatsServer, leader: str) -> None:
    shown = answered(server, "show", "ada", "--from", "service")
    assert (shown["replica"], shown["leads"]) == (leader, True)
    assert [(one["AlarmID"], one["Status"], one["due"]) for one in shown["alarms"]] == [
        ("fan-2", "WARNING", True),
        ("disk-7", "CRITICAL", False),
    ]
    due = answered(server, "show", "ada", "--due", "--from", "service")
    assert [one["AlarmID"] for one in due["alarms"]] == ["fan-2"]
    users = answered(server, "users")
    assert users["replica"] == leader
    assert [(one["UserID"], one["due"], one["active"]) for one in users["top"]] == [
        ("ada", 1, 2),
        ("bob", 1, 1),
    ]
    lines = ask(server, "history", "ada", "disk-7").stdout.splitlines()
    assert lines[0].endswith(": new")
    assert lines[1].endswith(" with 1 alarm, with disk-7 CRITICAL")
    assert "late: CRITICAL of 2026-01-02T03:04:05.000000000Z counts" in lines[2]
    assert "rejected (schema)" in lines[3]
    members = ask(server, "members").stdout
    assert f"led by {leader}" in members


def tell_of_a_trace(server: NatsServer, replicas: list[StreamService]) -> None:
    said = ask(server, "trace", "ada", "--for", "1m").stdout.splitlines()
    assert len(said) == len(replicas), said
    for replica in replicas:
        replica.wait_for_log("trace begins user='ada'")
    assert ask(server, "trace", "ada", "--off").returncode == 0


@pytest.mark.group
@pytest.mark.timeout(180)
def test_history_is_what_happened_also_after_a_take_over() -> None:
    options = ("--clock-skew", f"{SKEW_NS / 1e9}s", "--retention", f"{RETENTION_NS / 1e9}s")
    with (
        NatsServer() as server,
        GroupService([server.url]) as group,
        Feeder(server.url, seed=93, rate=1500) as feeder,
    ):
        for _ in range(2):
            feeder.wait_for(700)
            leader = group.leader()
            leader.kill()
            leader.start()
        expected = group.settle(feeder)
        assert_worth_judging(expected)
        for user, answers in expected.answers.items():
            if "\0" in user:
                continue  # no command line can hold it
            done = run_command("history", "--json", "--server", server.url, *options, "--", user)
            assert done.returncode == 0, done.stderr
            steps = [json.loads(line) for line in done.stdout.splitlines()]
            digests = [one for one in steps if one["outcome"] == "digest"]
            assert [one["sequence"] for one in digests] == [one.sequence for one in answers]
            for one, answer in zip(digests, answers, strict=True):
                alarms = [(alarm["AlarmID"], alarm["Status"]) for alarm in one["alarms"]]
                assert alarms == [(e.alarm, e.status.name) for e in answer.digest.entries]
            wrong = ("missing", "unknown", "not_answered")
            assert not [one for one in steps if one["outcome"] in wrong]
