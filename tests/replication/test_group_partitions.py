"""A leader that is cut off, one way or both, and comes back: what it sent late is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.command import run_command
from support.feeder import Feeder
from support.group_service import GroupService, longest_wait_s
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.scale import cases
from support.stream_service import assert_worth_judging, let_time_pass
from support.wait import eventually

pytestmark = pytest.mark.group

# What is promised is 6 s; a machine that is busy with other things needs longer.
MOST_WITHOUT_LEADER_S = 15.0


@pytest.mark.parametrize(
    "ways", [("to server",), ("to client",), ()], ids=["it is not heard", "it is deaf", "both"]
)
def test_a_leader_that_is_cut_off_is_replaced_and_stores_nothing_late(
    ways: tuple[str], tell: Callable[[str], None]
) -> None:
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        GroupService([proxy.url, server.url, server.url], first_url_only=True) as group,
        Feeder(server.url, seed=51, rate=1000) as feeder,
    ):
        first = group.replicas[0]
        for _ in range(cases(2, 20)):
            if group.leader() is not first:
                done = run_command("step-down", "--server", server.url, "--to", "a")
                assert done.returncode == 0, done.stderr
            feeder.wait_for(300)
            proxy.stall(*ways)
            feeder.wait_for(300)
            eventually(lambda: others_lead(group), timeout=20.0, what="another leader")
            let_time_pass(0.5)
            proxy.resume()
            feeder.wait_for(300)
        assert_worth_judging(group.settle(feeder))
        assert longest_wait_s(server.url, f"cut off {ways}", tell) < MOST_WITHOUT_LEADER_S


def others_lead(group: GroupService) -> bool:
    return group.leader() is not group.replicas[0]


def test_a_connection_that_is_slow_and_breaks_costs_nothing() -> None:
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        GroupService([proxy.url, server.url, server.url], first_url_only=True) as group,
        Feeder(server.url, seed=52, rate=1000) as feeder,
    ):
        for number in range(cases(6, 60)):
            feeder.wait_for(200)
            proxy.delay(0.02 * (number % 3))
            if number % 2:
                proxy.cut()
            else:
                proxy.cut_after(1 + 997 * number)
        proxy.delay(0)
        feeder.wait_for(300)
        assert_worth_judging(group.settle(feeder))


@pytest.mark.parametrize(
    "point", ["election.before", "election.before_reading", "election.read", "election.after"]
)
def test_killed_at_any_step_of_an_election(point: str) -> None:
    """All three, each at its first election; and once more when they have state."""
    points = dict.fromkeys("abc", point)
    with (
        NatsServer() as server,
        GroupService([server.url], failpoints=points, wait_until_ready=False) as group,
        Feeder(server.url, seed=53, rate=1000) as feeder,
    ):
        eventually(lambda: not group.running, timeout=40.0, what="the end of all three")
        group.disarm()
        group.start()
        feeder.wait_for(500)
        leader = group.leader()
        group.arm(point)
        for replica in group.replicas:
            if replica is not leader:
                replica.kill()
                replica.start()
        feeder.wait_for(100)
        leader.kill()
        eventually(lambda: not group.running, timeout=40.0, what="the end of both others")
        group.disarm()
        group.start()
        feeder.wait_for(300)
        assert_worth_judging(group.settle(feeder))
