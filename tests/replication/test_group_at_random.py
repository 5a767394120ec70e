"""Everything that may go wrong, in random order, for minutes or (``ALARMDIGEST_TEST_LONG=1``) for
an hour: three replicas on three servers, each behind a proxy."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from support.cluster import Cluster
from support.command import run_command
from support.feeder import Feeder
from support.group_service import GroupService, create_digests, longest_wait_s, pause
from support.proxy import Proxy
from support.scale import cases
from support.stream_service import StreamService, assert_worth_judging, let_time_pass

pytestmark = [pytest.mark.group, pytest.mark.timeout(2 * 3600)]

STALLS = [("to server",), ("to client",), ()]


class Faults:
    """Each method does one thing and puts right what would not come right by itself."""

    def __init__(
        self, dice: random.Random, cluster: Cluster, proxies: list[Proxy], group: GroupService
    ) -> None:
        self.dice = dice
        self.cluster = cluster
        self.proxies = proxies
        self.group = group

    def _any(self) -> StreamService:
        """More often than not the leader."""
        return (
            self.group.leader()
            if self.dice.random() < 0.6
            else self.dice.choice(self.group.replicas)
        )

    def kill_replica(self) -> None:
        one = self._any()
        one.kill()
        let_time_pass(self.dice.choice((0.0, 3.0)))
        one.start(ready=False)

    def wipe_replica(self) -> None:
        one = self._any()
        one.kill()
        shutil.rmtree(one.data_dir)
        one.start(ready=False)

    def kill_all(self) -> None:
        for one in self.group.running:
            one.kill()
        self.group.start(ready=False)

    def stop_replica(self) -> None:
        one = self._any()
        one.terminate()
        one.wait(60.0)
        one.start(ready=False)

    def pause_replica(self) -> None:
        pause(self._any(), self.dice.uniform(0.3, 6.0))

    def step_down(self) -> None:
        run_command("step-down", "--server", self.cluster.urls[0])

    def cut_connections(self) -> None:
        self.dice.choice(self.proxies).cut()

    def stall_connections(self) -> None:
        proxy = self.dice.choice(self.proxies)
        proxy.stall(*self.dice.choice(STALLS))
        let_time_pass(self.dice.uniform(0.5, 5.0))
        proxy.resume()

    def kill_server(self) -> None:
        # The one that the feeder talks to stays: it would only feed nothing meanwhile.
        node = self.dice.choice(self.cluster.nodes[1:])
        node.kill()
        let_time_pass(1.0)
        node.start()
        self.cluster.settle()

    def pause_server(self) -> None:
        node = self.dice.choice(self.cluster.nodes[1:])
        node.pause()
        let_time_pass(self.dice.uniform(0.5, 4.0))
        node.resume()
        self.cluster.settle()


FAULTS = (
    *(Faults.kill_replica, Faults.kill_replica, Faults.wipe_replica, Faults.kill_all),
    *(Faults.stop_replica, Faults.pause_replica, Faults.pause_replica, Faults.step_down),
    *(Faults.cut_connections, Faults.stall_connections, Faults.kill_server, Faults.pause_server),
)


def test_whatever_goes_wrong_nothing_is_lost_or_doubled(tell: Callable[[str], None]) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    done: Counter[str] = Counter()
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster())
        create_digests(cluster.urls[0], num_replicas=3)
        proxies = [stack.enter_context(Proxy(node.port)) for node in cluster.nodes]
        urls = [proxy.url for proxy in proxies]
        group = stack.enter_context(GroupService(urls, "--stream-replicas", "3"))
        group.url = cluster.urls[0]
        rate = cases(500, 100)
        feeder = stack.enter_context(Feeder(cluster.urls[0], seed=seed, rate=rate))
        faults = Faults(dice, cluster, proxies, group)
        for _ in range(cases(15, 700)):
            feeder.wait_for(dice.randrange(1, rate))
            fault = dice.choice(FAULTS)
            done[fault.__name__] += 1
            fault(faults)
        cluster.settle()
        assert_worth_judging(group.settle(feeder, timeout=90.0))
        tell(f"at random: {', '.join(f'{name} {count}' for name, count in sorted(done.items()))}")
        longest_wait_s(cluster.urls[0], "at random", tell)
