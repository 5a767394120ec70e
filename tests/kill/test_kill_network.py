"""A network between service and server that cuts, stalls, delays and splits, in stream mode."""

import random

import pytest
from nats.js.api import StreamConfig
from support.bus import Bus
from support.feeder import Feeder
from support.judge import DIGESTS
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.scale import cases
from support.stream_service import StreamService, assert_worth_judging, let_time_pass, settle
from support.wait import eventually

pytestmark = pytest.mark.slow


def cut(proxy: Proxy, feeder: Feeder, dice: random.Random) -> None:
    proxy.cut()
    feeder.wait_for(dice.randrange(1, 300))


def cut_within_a_frame(proxy: Proxy, feeder: Feeder, dice: random.Random) -> None:
    proxy.cut_after(dice.choice([1, dice.randrange(1, 1000), dice.randrange(1, 200_000)]))
    feeder.wait_for(dice.randrange(1, 1000))


def cut_off(proxy: Proxy, feeder: Feeder, dice: random.Random) -> None:
    proxy.refuse()
    proxy.cut()
    feeder.wait_for(dice.randrange(1, 1000))
    proxy.accept()


def stall(proxy: Proxy, feeder: Feeder, dice: random.Random) -> None:
    proxy.stall()
    feeder.wait_for(dice.randrange(1, 4000))
    proxy.resume()


def cut_while_stalled(proxy: Proxy, feeder: Feeder, dice: random.Random) -> None:
    """What the proxy holds by then is lost: messages, digests and confirmations."""
    proxy.stall()
    feeder.wait_for(dice.randrange(1, 1000))
    proxy.cut()
    proxy.resume()


def split_and_cut(proxy: Proxy, feeder: Feeder, dice: random.Random) -> None:
    proxy.split(dice.choice([17, 100, 1000]))
    feeder.wait_for(dice.randrange(1, 500))
    proxy.split(None)
    proxy.cut()


def delay_and_cut(proxy: Proxy, feeder: Feeder, dice: random.Random) -> None:
    proxy.delay(dice.choice([0.003, 0.03]))
    feeder.wait_for(dice.randrange(1, 1000))
    proxy.cut()
    proxy.delay(0)


FAULTS = [cut, cut_within_a_frame, cut_off, stall, cut_while_stalled, split_and_cut, delay_and_cut]


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_the_network_does_every_digest_comes_once(seed: int) -> None:
    dice = random.Random(seed)
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        # Its connections are counted: only those that carry messages.
        StreamService(proxy.url, "--ping-interval", "300ms", "--no-service-api") as service,
        Feeder(server.url, seed=20 + seed) as feeder,
    ):
        before = proxy.connections
        faults: list[object] = []
        for number in range(cases(4, 40)):
            # The same ones in any order, so that the few of a usual run differ from one another.
            if number % len(FAULTS) == 0:
                faults = list(dice.sample(FAULTS, len(FAULTS)))
            fault = faults[number % len(FAULTS)]
            feeder.wait_for(dice.randrange(1, 500))
            assert callable(fault)
            fault(proxy, feeder, dice)
        feeder.wait_for(300)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected)
        assert proxy.connections > before


def test_a_cut_longer_than_the_duplicate_window_doubles_nothing() -> None:
    """What the stream holds of the digests that were on their way is looked up, not left to it."""
    with NatsServer() as server, Proxy(server.port) as proxy:
        with Bus(server.url) as bus:
            config = StreamConfig(name=DIGESTS, subjects=["AlarmDigest"], duplicate_window=0.1)
            bus.run(bus.client.jetstream().add_stream(config))
        with StreamService(proxy.url) as service, Feeder(server.url, seed=31) as feeder:
            proxy.delay(0.03)  # so that confirmations are on their way, too, when it is cut
            for _ in range(cases(4, 40)):
                feeder.wait_for(300)
                proxy.refuse()
                proxy.cut()
                let_time_pass(0.3)
                proxy.accept()
            proxy.delay(0)
            feeder.wait_for(300)
            expected = settle(server.url, service, feeder)
            assert_worth_judging(expected)


def test_a_network_cut_while_the_service_catches_up() -> None:
    """From the first message on, over and over: each new consumer goes on where the last ended."""
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        StreamService(proxy.url, "--no-service-api") as service,
        Feeder(server.url, seed=29, rate=5000) as feeder,
    ):
        service.kill()
        feeder.wait_for(6000)
        proxy.cut_after(20_000)
        service.start(ready=False)
        cut_connections = proxy.connections
        for size in [50_000, 100_000, 200_000]:
            # One more, at least, than those that were there: it has come back after the cut.
            eventually(lambda: proxy.connections > cut_connections, what="the cut")  # noqa: B023
            cut_connections = proxy.connections
            proxy.cut_after(size)
        feeder.wait_for(300)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected)
