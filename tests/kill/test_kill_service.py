"""kill -9 of the service at any instant, in stream mode: each digest stands in the digest stream
once, in order and as if nothing had happened."""

import random

import pytest
from nats.js.api import StreamConfig
from support.bus import Bus
from support.feeder import Feeder
from support.judge import ALARMS, DIGESTS, stream_size
from support.nats_server import NatsServer
from support.scale import cases
from support.stream_service import (
    StreamService,
    assert_worth_judging,
    let_time_pass,
    settle,
    sizes,
)

pytestmark = pytest.mark.slow

KILLS = cases(6, 100)


def kill_somewhere(service: StreamService, feeder: Feeder, dice: random.Random) -> None:
    """At a random moment: after some messages, or while it is still starting."""
    feeder.wait_for(dice.choice([1, dice.randrange(1, 300), dice.randrange(1, 3000)]))
    service.kill()


def test_killed_again_and_again_every_digest_once() -> None:
    dice = random.Random(1)
    with (
        NatsServer() as server,
        StreamService(server.url) as service,
        Feeder(server.url, seed=1) as feeder,
    ):
        for _ in range(KILLS):
            kill_somewhere(service, feeder, dice)
            # Not always to the end of its start: a replay may be killed, too.
            service.start(ready=dice.random() < 0.7)
        feeder.wait_for(1000)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected)


def test_an_outage_longer_than_the_duplicate_window_doubles_nothing() -> None:
    """The server has forgotten the ids by then, so it is not the one that sorts copies out."""
    dice = random.Random(2)
    with NatsServer() as server:
        with Bus(server.url) as bus:
            config = StreamConfig(name=DIGESTS, subjects=["AlarmDigest"], duplicate_window=0.1)
            bus.run(bus.client.jetstream().add_stream(config))
        with StreamService(server.url) as service, Feeder(server.url, seed=2) as feeder:
            for _ in range(cases(4, 60)):
                kill_somewhere(service, feeder, dice)
                let_time_pass(0.3)
                service.start()
            feeder.wait_for(500)
            expected = settle(server.url, service, feeder)
            assert_worth_judging(expected)


def test_another_number_of_workers_after_each_kill() -> None:
    dice = random.Random(3)
    with (
        NatsServer() as server,
        StreamService(server.url, workers=3) as service,
        Feeder(server.url, seed=3) as feeder,
    ):
        for number in range(cases(4, 60)):
            kill_somewhere(service, feeder, dice)
            service.change(workers=[12, 1, 7, 2][number % 4])
            service.start()
        feeder.wait_for(500)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected)


def test_killed_with_digests_in_several_parts() -> None:
    """Parts have ids of their own: a replay may find one of them there and another not."""
    dice = random.Random(4)
    split = 16 * 1024
    alarms = [f"{number:04}".ljust(900, "x") for number in range(80)]
    with (
        NatsServer() as server,
        StreamService(server.url, "--split-size", "16KiB") as service,
        Feeder(
            server.url, seed=4, users=["u", "v"], alarms=alarms, rate=1500, requests=0.01
        ) as feeder,
    ):
        for _ in range(cases(3, 60)):
            kill_somewhere(service, feeder, dice)
            service.start()
        feeder.wait_for(1000)
        expected = settle(server.url, service, feeder, split_bytes=split)
        largest = max(
            len(answer.digest.entries)
            for answers in expected.answers.values()
            for answer in answers
        )
        assert largest * 900 > 2 * split, "no digest in three parts"
        assert stream_size(server.url, DIGESTS) > expected.digests


def test_a_service_that_comes_late_begins_at_the_first_message() -> None:
    with NatsServer() as server, StreamService(server.url) as service:
        service.stop()
        with Feeder(server.url, seed=5) as feeder:
            feeder.wait_for(1000)
            assert sizes(server.url) == [0, 0]
            service.start()
            expected = settle(server.url, service, feeder)
            assert_worth_judging(expected)


def test_after_a_drain_there_is_nothing_to_do_again() -> None:
    with (
        NatsServer() as server,
        StreamService(server.url) as service,
        Feeder(server.url, seed=6) as feeder,
    ):
        feeder.wait_for(1000)
        settle(server.url, service, feeder)
        before = sizes(server.url, (ALARMS, DIGESTS))
        service.start()
        assert service.stop() == 0
        assert sizes(server.url, (ALARMS, DIGESTS)) == before


@pytest.mark.parametrize("store", ["lmdb", "memory"])
def test_a_drain_under_traffic_loses_nothing(store: str) -> None:
    """With the store in memory the next start replays the whole stream, and doubles nothing."""
    with (
        NatsServer() as server,
        StreamService(server.url, "--store", store) as service,
        Feeder(server.url, seed=7) as feeder,
    ):
        feeder.wait_for(700)
        assert service.stop() == 0
        feeder.wait_for(300)
        service.start()
        feeder.wait_for(300)
        expected = settle(server.url, service, feeder)
        assert_worth_judging(expected, digests=50)
