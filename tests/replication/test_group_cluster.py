"""Three replicas on three servers, every stream on all of them: replicas and servers die together.

Run by ``make test-group``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from support.bus import Bus
from support.cluster import Cluster
from support.faults import pairs
from support.feeder import Feeder
from support.group_service import GroupService, digests_of, longest_wait_s, pause
from support.nats_server import NatsServer
from support.scale import cases
from support.stream_service import assert_worth_judging, let_time_pass
from support.wait import eventually

from alarmdigest.pipeline.inflight.fenced import BATCH_FROM

pytestmark = [pytest.mark.group, pytest.mark.timeout(300)]

ON_ALL = ("--stream-replicas", "3")


def end_and_start(node: NatsServer) -> None:
    node.kill()
    let_time_pass(1.0)
    node.start()


def stand_still(node: NatsServer) -> None:
    node.pause()
    let_time_pass(3.0)
    node.resume()


@pytest.mark.parametrize("harm", [end_and_start, stand_still])
def test_servers_and_replicas_go_in_turn(
    harm: Callable[[NatsServer], None], tell: Callable[[str], None]
) -> None:
    dice = random.Random(1)
    with (
        Cluster() as cluster,
        GroupService(cluster.urls, *ON_ALL) as group,
        Feeder(cluster.urls[0], seed=1) as feeder,
    ):
        group.leader()
        feeder.wait_for(200)
        for _ in range(cases(2, 30)):
            # The one that the feeder talks to stays: it would only feed nothing meanwhile.
            harm(dice.choice(cluster.nodes[1:]))
            cluster.settle()
            leader = group.leader()
            if dice.random() < 0.5:
                leader.kill()
                leader.start()
            else:
                pause(leader, 4.0)
            feeder.wait_for(dice.randrange(100, 800))
        cluster.settle()
        assert_worth_judging(group.settle(feeder))
        # The stream has no leader meanwhile, either.
        assert longest_wait_s(cluster.urls[0], "servers and replicas", tell) < 30.0


def test_digests_go_as_atomic_batches_to_three_servers() -> None:
    """Many at once: a service that is faster than its feeder never has as many to send."""
    with (
        Cluster() as cluster,
        GroupService(cluster.urls, *ON_ALL) as group,
        Bus(cluster.urls[0]) as bus,
    ):
        group.leader()
        bus.publish_all(pairs(range(1000), users=200))
        bus.flush()

        def largest_batch() -> int:
            """Those of a batch have one time: the server stores it as a whole."""
            times = Counter(one.time_ns for one in digests_of(cluster.urls[0]))
            return max(times.values(), default=0)

        eventually(lambda: largest_batch() >= BATCH_FROM, what="a batch", timeout=30, interval=0.5)


def test_what_a_feeder_sends_to_three_servers_is_exact() -> None:
    with (
        Cluster() as cluster,
        GroupService(cluster.urls, *ON_ALL) as group,
        Feeder(cluster.urls[0], seed=2) as feeder,
    ):
        group.leader()
        feeder.wait_for(3000)
        assert_worth_judging(group.settle(feeder, rejected_twice=False))
