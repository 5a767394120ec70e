"""A consumer that is lost, refused or silent, on a connection that is well."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from support.bus import Bus
from support.faults import assert_in_order_for_each_user, numbers, once_each, pairs, patched
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.service import ServiceProcess
from support.streams import ALARMS, INPUTS, QUICK, add, js, store_all, stream_service
from support.wait import eventually

LOST = "alarmdigest_listener_connections_lost_total"


def consumers(bus: Bus) -> list[str]:
    return [found.name for found in bus.run(js(bus).consumers_info(ALARMS))]


def add_another(bus: Bus) -> None:
    """Somebody else's consumer."""
    config = ConsumerConfig(durable_name="another", ack_policy=AckPolicy.NONE)
    bus.run(js(bus).add_consumer(ALARMS, config))


def assert_each_once(bus: Bus, count: int) -> None:
    eventually(lambda: len(set(numbers(bus.digests))) >= count, what=f"{count} digests")
    assert sorted(numbers(once_each(bus.digests))) == list(range(count))
    assert_in_order_for_each_user(once_each(bus.digests))


def test_a_consumer_that_is_deleted_is_made_anew_on_the_same_connection_at_once() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        for time_ in range(3):
            [name] = consumers(bus)
            bus.run(js(bus).delete_consumer(ALARMS, name))
            start = time.monotonic()
            store_all(bus, pairs(range(time_ * 10, time_ * 10 + 10)))
            assert_each_once(bus, time_ * 10 + 10)
            assert time.monotonic() - start < 3
        assert service.metric(LOST) == 0
        assert "connection lost" not in service.log
        assert "consumer lost, making another reason=the consumer has ended: 409" in service.log


def test_where_one_consumer_is_allowed_the_old_one_goes_before_the_new_one_comes() -> None:
    with NatsServer() as server, Bus(server.url) as bus, Proxy(server.port) as proxy:
        add(bus, ALARMS, INPUTS, max_consumers=1)
        with stream_service(proxy.url) as service:
            for cut in range(2):
                proxy.cut()
                start = time.monotonic()
                store_all(bus, pairs(range(cut * 10, cut * 10 + 10)))
                assert_each_once(bus, cut * 10 + 10)
                assert time.monotonic() - start < 5
                eventually(lambda: len(consumers(bus)) == 1, what="one consumer")
            assert "no consumer can be made" not in service.log


def test_where_no_consumer_is_left_for_us_the_limit_is_named_and_the_leader_is_read() -> None:
    with NatsServer() as server, Bus(server.url) as bus, Proxy(server.port) as proxy:
        add(bus, ALARMS, INPUTS, max_consumers=1)
        with stream_service(proxy.url) as service:
            store_all(bus, pairs(range(10)))
            assert_each_once(bus, 10)
            [ours] = consumers(bus)
            proxy.stall()
            bus.run(js(bus).delete_consumer(ALARMS, ours))
            add_another(bus)
            proxy.cut()
            proxy.resume()
            store_all(bus, pairs(range(10, 30)))
            assert_each_once(bus, 30)
            service.wait_for_log("no consumer can be made.*max_consumers of stream ALARMS")


def test_a_refusal_is_said_as_what_it_is_and_asked_again_on_the_same_connection() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, ALARMS, INPUTS, max_consumers=1)
        add_another(bus)
        service = stream_service(server.url)
        service.start(ready=False)
        with_log = r"JetStream does not do what we ask, trying again reason=.*max_consumers"
        try:
            service.wait_for_log(with_log)
            at = time.monotonic()
            eventually(lambda: time.monotonic() > at + 1.5, what="some more attempts")
            assert "connection lost" not in service.log
            assert service.log.count(" connected name=alarmdigest ") == 1
            bus.run(js(bus).delete_consumer(ALARMS, "another"))
            service.wait_for_log(r"\bready\b")
            store_all(bus, pairs(range(10)))
            assert_each_once(bus, 10)
        finally:
            service.kill()


NO_CONSUMER_UNTIL = """
import pathlib
from alarmdigest.pipeline.sources import pull_consumer
from alarmdigest.nats.errors import NoAnswer
from alarmdigest.nats.jetstream import JetStream
from alarmdigest.pipeline.sources.questions import Questions
request = JetStream.request
def request_if(self, what, body=None, *, timeout_s=None):
    if timeout_s is not None and not pathlib.Path({gate!r}).exists():
        raise NoAnswer("nobody there")
    return request(self, what, body, timeout_s=timeout_s)
JetStream.request = request_if
ask = Questions.ask
def ask_if(self, what, body, on_answer):
    if "CONSUMER.CREATE" not in what or pathlib.Path({gate!r}).exists():
        ask(self, what, body, on_answer)
    else:
        HELD.append((self, what, body, on_answer))
HELD = []
Questions.ask = ask_if
turn = pull_consumer.PullConsumerSource.request_more
def turn_and_ask(self, *args, **named):
    while HELD and pathlib.Path({gate!r}).exists():
        held = HELD.pop()
        if held[0] is self._questions:
            ask(*held)
    turn(self, *args, **named)
pull_consumer.PullConsumerSource.request_more = turn_and_ask
"""


@pytest.mark.parametrize("deleted", [[], [205, *range(215, 300), 480]], ids=["whole", "gaps"])
def test_without_anybody_to_make_a_consumer_the_stream_is_read_from_its_leader(
    tmp_path: Path, deleted: list[int]
) -> None:
    """As while a cluster has no leader; then a consumer goes on where that reading ended."""
    gate = tmp_path / "gate"
    program = patched(NO_CONSUMER_UNTIL.format(gate=str(gate)))
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url, mode="stream", program=program, options=QUICK) as service,
        Bus(server.url) as bus,
    ):
        store_all(bus, pairs(range(100)))
        assert_each_once(bus, 100)
        proxy.refuse()
        proxy.cut()
        store_all(bus, pairs(range(100, 250)))
        for sequence in deleted:
            bus.run(js(bus).delete_msg(ALARMS, sequence))
        proxy.accept()
        service.wait_for_log("the stream's leader is read until then")
        position = "alarmdigest_stream_position"
        eventually(lambda: service.metric(position) == 500, what="all of them to be read")
        store_all(bus, pairs(range(250, 300)))
        eventually(lambda: service.metric(position) == 600, what="those behind them, too")
        gate.touch()
        service.wait_for_log("a consumer could be made again")
        store_all(bus, pairs(range(300, 350)))
        eventually(lambda: 349 in numbers(bus.digests), what="the last one")
        assert service.metric(LOST) == 1
        assert service.metric("alarmdigest_stream_deleted_total") == len(deleted)
        assert_in_order_for_each_user(once_each(bus.digests))
        gone = {(sequence - 1) // 2 for sequence in deleted}
        found = set(numbers(bus.digests))
        assert set(range(350)) - gone <= found


def test_how_far_behind_is_not_known_while_the_server_is_silent() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        eventually(lambda: service.metric("alarmdigest_stream_lag") == 0, what="no lag")
        server.pause()
        lag = "alarmdigest_stream_lag"
        eventually(lambda: math.isnan(service.metric(lag)), timeout=3, what="an unknown lag")
        assert math.isnan(service.metric(f"{lag}_seconds"))
        assert '"behind":{"messages":null,"seconds":null' in service.http("/status.json")[1]
        server.resume()
        eventually(lambda: service.metric("alarmdigest_stream_lag") == 0, what="no lag again")


def test_what_a_consumer_does_not_know_of_its_leader_does(tmp_path: Path) -> None:
    """A consumer that brings nothing, and whose heartbeats come all the same: its replica lags."""
    gate = tmp_path / "gate"
    deaf = patched(f"""
import pathlib
from alarmdigest.pipeline.sources.pulls import Pulls
pull = Pulls._pull
def pull_elsewhere(self):
    right = self._next
    if not pathlib.Path({str(gate)!r}).exists():
        self._next = b"$JS.API.CONSUMER.MSG.NEXT.EMPTY.deaf"
    pull(self)
    self._next = right
Pulls._pull = pull_elsewhere
""")
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, "EMPTY", ["nothing.ever"])
        config = ConsumerConfig(durable_name="deaf", ack_policy=AckPolicy.NONE)
        bus.run(js(bus).add_consumer("EMPTY", config))
        with ServiceProcess(server.url, mode="stream", program=deaf, options=QUICK) as service:
            store_all(bus, pairs(range(10)))
            eventually(lambda: service.metric("alarmdigest_stream_lag") == 20, what="the lag")
            gate.touch()
            service.wait_for_log("lags behind the leader of the stream")
            assert_each_once(bus, 10)
