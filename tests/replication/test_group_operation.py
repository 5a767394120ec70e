"""What an operator sees of a group, and asks of it."""

from __future__ import annotations

import json
from dataclasses import replace

import orjson
import pytest
from support.command import run_command
from support.feeder import Feeder
from support.group_service import GroupService
from support.jetstream import connected
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.stream_service import StreamService, assert_worth_judging
from support.wait import eventually

from alarmdigest.replication.membership import Beat
from alarmdigest.replication.subjects import beat_subject
from alarmdigest.replication.word import Word


def name_of(service: StreamService) -> str:
    found = json.loads(service.http("/status.json")[1])
    name: str = found["group"]["replica"]
    return name


@pytest.mark.group
def test_members_are_shown_and_another_one_is_elected_on_request() -> None:
    with (
        NatsServer() as server,
        GroupService([server.url]) as group,
        Feeder(server.url, seed=7) as feeder,
    ):
        feeder.wait_for(300)

        def whole() -> dict[str, object] | None:
            found = json.loads(run_command("members", "--server", server.url, "--json").stdout)
            settled = len(found["members"]) == 3 and found["leader"] == name_of(group.leader())
            return found if settled else None

        found = eventually(whole, what="three members and a leader")
        assert found is not None
        assert found["group"] == "mail"
        leader = group.leader()
        shown = run_command("members", "--server", server.url, "--group", "mail")
        assert shown.returncode == 0
        assert f"led by {found['leader']}" in shown.stdout

        other = next(one for one in group.replicas if one is not leader)
        result = run_command("step-down", "--server", server.url, "--to", name_of(other))
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{name_of(other)} leads the group mail now\n"
        assert group.leader() is other
        eventually(lambda: leader.metric("alarmdigest_leader") == 0.0, what="it to follow")
        assert other.metric("alarmdigest_leader") == 1.0
        assert leader.metric("alarmdigest_group_members") == 3.0
        assert leader.metric("alarmdigest_group_has_leader") == 1.0
        for replica in group.replicas:
            assert replica.http("/readyz")[0] == 200
            assert "another alarmdigest answers" not in replica.log
        none = run_command("step-down", "--server", server.url, "--to", "nobody")
        assert none.returncode == 2
        assert "there is no replica nobody in the group, but a, b, c" in none.stderr
        # Once more is no change, and no failure.
        again = run_command("step-down", "--server", server.url, "--to", name_of(other))
        assert (again.returncode, again.stdout) == (0, result.stdout)
        assert_worth_judging(group.settle(feeder))
        # All have ended in order, and have said so.
        found = json.loads(run_command("members", "--server", server.url, "--json").stdout)
        assert found["leader"] is None
        assert {(one["role"], one["state"]) for one in found["members"]} == {("", "stopped")}


def test_who_is_dead_is_not_shown_as_ready_once_another_one_leads() -> None:
    with NatsServer() as server, GroupService([server.url], replicas=2) as group:
        leader = group.leader()
        name = name_of(leader)
        leader.kill()
        eventually(lambda: group.leader() is not leader, what="another leader")
        found = json.loads(run_command("members", "--server", server.url, "--json").stdout)
        [dead] = (one for one in found["members"] if one["name"] == name)
        assert (dead["role"], dead["state"]) == ("", "silent")


def test_a_group_that_is_not_there() -> None:
    with NatsServer() as server:
        for command in ("members", "step-down"):
            result = run_command(command, "--server", server.url, "--group", "nobody")
            assert result.returncode == 2
            assert "no group nobody" in result.stderr


def test_two_replicas_of_one_name() -> None:
    with NatsServer() as server, GroupService([server.url], replicas=1) as group:
        group.leader()
        same = ("--group", "mail", "--replica-name", "a")
        settings = ("--retention", "300ms", "--clock-skew", "50ms")
        twin = ServiceProcess(server.url, mode="stream", options=(*same, *settings))
        twin.start(ready=False)
        try:
            assert twin.wait() == 2
        finally:
            if twin.process.poll() is None:
                twin.kill()
        assert "another process of the group is called a" in twin.log
        assert "Traceback" not in twin.log


@pytest.mark.group
def test_a_beat_that_is_made_up_costs_nobody_anything() -> None:
    with (
        NatsServer() as server,
        GroupService([server.url], replicas=2) as group,
        Feeder(server.url, seed=8, rate=300) as feeder,
    ):
        leader = group.leader()
        feeder.wait_for(100)
        elections = sum(one.metric("alarmdigest_elections_total") for one in group.replicas)
        deep = b"[" * 20_000 + b"]" * 20_000
        with connected(server.url) as stranger:
            for number in range(1, 60):
                beat = Beat("x", "x-1", number, priority=999, token=10**15, ready=True)
                told = beat.to_json() | {"about": {"host": ["h"], "version": {}, "pid": "p"}}
                # A word that would have everything let go, if it were believed.
                lie = replace(beat, word=Word(through=2**63 - 1, sequence=10**9, token=10**15))
                bodies = (orjson.dumps(told), orjson.dumps(lie.to_json()), b"{", b"")
                for body in (*bodies, b'{"name":' + deep + b"}"):
                    to = beat_subject("mail", "x").encode()
                    stranger.send(b"PUB %b %d\r\n%b\r\n" % (to, len(body), body))
                feeder.wait_for(20)
            stranger.send_ping()
        shown = run_command("members", "--server", server.url)
        assert shown.returncode == 0, shown.stderr
        assert group.leader() is leader
        now = sum(one.metric("alarmdigest_elections_total") for one in group.replicas)
        assert now == elections
        assert_worth_judging(group.settle(feeder), digests=50)
