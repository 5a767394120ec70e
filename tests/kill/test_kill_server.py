"""kill -9 of nats-server under traffic, in stream mode, alone and together with the service."""

import random

from support.feeder import Feeder
from support.nats_server import NatsServer
from support.scale import cases
from support.stream_service import StreamService, assert_worth_judging, settle


def test_a_killed_server_costs_nothing() -> None:
    dice = random.Random(1)
    kills = cases(3, 20)
    with (
        NatsServer() as server,
        StreamService(server.url) as service,
        Feeder(server.url, seed=11) as feeder,
    ):
        for _ in range(kills):
            feeder.wait_for(dice.randrange(1, 3000))
            server.kill()
            server.start()
        feeder.wait_for(1000)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected)
        assert feeder.connections > kills


def test_server_and_service_killed_at_once_in_either_order() -> None:
    dice = random.Random(2)
    with (
        NatsServer() as server,
        StreamService(server.url) as service,
        Feeder(server.url, seed=12) as feeder,
    ):
        for _ in range(cases(2, 20)):
            feeder.wait_for(dice.randrange(1, 2000))
            victims = [server.kill, service.kill]
            dice.shuffle(victims)
            for kill in victims:
                kill()
            # The service may be there first, and has to wait for a server to start with.
            service.start(ready=False)
            server.start()
            service.wait_for_log(r"\bready\b")
        feeder.wait_for(500)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected)


def test_a_server_that_stands_still_for_a_while() -> None:
    """Longer than two pings of ours: the service gives its connections up, and the frozen server
    still works off what they held once it goes on."""
    with (
        NatsServer() as server,
        StreamService(server.url, "--ping-interval", "300ms") as service,
        Feeder(server.url, seed=13) as feeder,
    ):
        feeder.wait_for(1000)
        server.pause()
        service.wait_for_log("no answer to our pings")
        server.resume()
        feeder.wait_for(1000)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected)
