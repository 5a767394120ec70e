"""The running service when the network or the server fails: nothing that reached it is lost, and
nothing is sent twice but with the same id. (What is published while it is cut off does not reach
it: core NATS gives everything once.)"""

import random
from pathlib import Path

import pytest
from support.bus import Bus, Received
from support.faults import (
    assert_in_order_for_each_user,
    event,
    gated,
    numbers,
    once_each,
    pairs,
    request,
)
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.service import ServiceProcess
from support.wait import eventually

pytestmark = pytest.mark.slow

RECEIVED = 'alarmdigest_received_total{kind="request"}'
MADE = "alarmdigest_book_digests_total"
LOST = "alarmdigest_listener_connections_lost_total"
# For tests that count connections: only those that carry messages.
COUNTED = ["--no-service-api"]


def wait_until_ready(service: ServiceProcess) -> None:
    eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")


def wait_until_not_ready(service: ServiceProcess, reason: str) -> None:
    eventually(lambda: reason in service.http("/readyz")[1], what=f"{reason!r} in /readyz")
    assert service.http("/readyz")[0] == 503
    assert service.http("/healthz") == (200, "ok\n")


def all_made(service: ServiceProcess, bus: Bus) -> list[Received]:
    """Wait until everything published before has come out, and return what the service ever made,
    without copies; fails unless all of it has arrived."""

    # The last word of a user of its own: once it is answered, all before it has been read.
    def last_word() -> bool:
        wait_until_ready(service)
        bus.publish_all(pairs([next(markers)]))
        return any(numbers([digest])[0] < 0 for digest in bus.digests[known:])

    known, markers = len(bus.digests), iter(range(-1, -1000, -1))
    eventually(last_word, interval=0.1, what="an answer to a new message")

    def everything() -> list[Received]:
        found = once_each(bus.digests)
        worked_off = service.metric(RECEIVED) == service.metric("alarmdigest_book_requests_total")
        return found if worked_off and len(found) == service.metric(MADE) else []

    return eventually(everything, what=f"{service.metric(MADE)} digests")


def without_markers(digests: list[Received]) -> list[Received]:
    return [digest for digest in digests if numbers([digest])[0] >= 0]


def rejoin(bus: Bus, server: NatsServer, reconnects: int) -> None:
    """Wait until the bus, too, has its subscriptions on the server that was started again."""
    assert server.alive()
    eventually(lambda: bus.client.stats["reconnects"] > reconnects, what="the bus's reconnect")
    bus.flush()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cut_at_random_moments_under_traffic(seed: int) -> None:
    dice = random.Random(seed)
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url) as service,
        Bus(server.url) as bus,
    ):
        proxy.delay(0.003)  # so that there is always something under way
        for start in range(0, 6000, 300):
            bus.publish_all(pairs(range(start, start + 300)))
            if dice.random() < 0.2:
                lost = service.metric(LOST)
                proxy.cut()
                # Not at once: until it has noticed it says that it is ready.
                eventually(lambda: service.metric(LOST) > lost, what="the cut noticed")  # noqa: B023
                wait_until_ready(service)
        digests = all_made(service, bus)
        assert service.metric(LOST) > 0
        assert len(without_markers(digests)) > 1000
        assert_in_order_for_each_user(without_markers(digests))


@pytest.mark.parametrize("size", [1, 20, 333, 5000])
def test_cut_within_a_frame(size: int) -> None:
    """What comes after the reconnection is not glued to the half that was there."""
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url, options=COUNTED) as service,
        Bus(server.url) as bus,
    ):
        proxy.cut_after(size)
        bus.publish_all(pairs(range(100)))
        eventually(lambda: service.metric(LOST) + proxy.connections > 3, what="the cut")
        wait_until_ready(service)
        bus.publish_all(pairs(range(100, 200)))
        digests = without_markers(all_made(service, bus))
        assert_in_order_for_each_user(digests)
        assert numbers(digests)[-1] >= 199 - 7
        assert bus.rejected == []


def test_ready_means_that_what_is_published_now_arrives_on_a_slow_network_too() -> None:
    with NatsServer() as server, Proxy(server.port) as proxy, Bus(server.url) as bus:
        proxy.delay(0.3)
        with ServiceProcess(proxy.url):
            bus.publish_all(pairs([1]))
            bus.wait_for_digests(1)


def test_a_stalled_network_is_waited_for_and_costs_nothing() -> None:
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url, options=COUNTED),
        Bus(server.url) as bus,
    ):
        bus.publish_all(pairs(range(200)))
        proxy.stall()
        bus.publish_all(pairs(range(200, 400)))
        proxy.resume()
        bus.wait_for_digests(400)
        assert sorted(numbers(bus.digests)) == list(range(400))
        assert_in_order_for_each_user(bus.digests)
        assert proxy.connections == 3  # the setup's, the publisher's, and the listener's


def test_a_network_that_stays_stalled_is_given_up_and_dialled_again() -> None:
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url, options=["--ping-interval", "300ms"]) as service,
        Bus(server.url) as bus,
    ):
        proxy.stall()
        wait_until_not_ready(service, "not subscribed")
        assert "no answer to our pings" in service.log
        proxy.resume()
        wait_until_ready(service)
        assert len(all_made(service, bus)) > 0


def test_a_killed_server_that_comes_back() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service, Bus(server.url) as bus:
        bus.publish_all(pairs(range(100)))
        bus.wait_for_digests(100)
        bus.publish_all([event("kept", "before")])
        eventually(lambda: service.metric("alarmdigest_alarms") == 101, what="the last event")
        server.kill()
        wait_until_not_ready(service, "not subscribed")
        server.start()
        rejoin(bus, server, 0)
        wait_until_ready(service)
        bus.publish_all([request("kept")])
        bus.wait_for_digests(101)
        assert bus.digests[100].json["ActiveAlarms"][0]["AlarmID"] == "before"


BOUNDS = """
import alarmdigest.pipeline.inflight.window as window, alarmdigest.pipeline.publisher as publisher
import alarmdigest.runtime.service_thread as threads
publisher.MAX_QUEUED_BYTES = 1_000_000
window.MAX_UNCONFIRMED_BYTES = publisher.MAX_TAKEN_BYTES = 100_000
threads.TICK_S = 0.005
"""
# A window, the write that went beyond it, and no batch larger than 256 KiB.
MOST_UNCONFIRMED = 100_000 + 100_000 + 2 * 256 * 1024
PADDING = "x" * 900 + "."


def test_digests_made_while_the_server_is_away_are_kept_within_bounds(tmp_path: Path) -> None:
    """The publisher holds so much and no more; then the workers wait, and nothing is dropped."""
    gate, count = tmp_path / "open", 6000
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(
            proxy.url, program=gated(gate, BOUNDS), options=["--workers", "3"]
        ) as service,
        Bus(server.url) as bus,
    ):
        # Several batches for each worker, so that there are more than the queue takes.
        for start in range(0, count, 300):
            bus.publish_all(pairs(range(start, start + 300), padding=PADDING))
            received = start + 300
            eventually(lambda: service.metric(RECEIVED) == received, what="the requests read")  # noqa: B023
        proxy.refuse()
        proxy.cut()
        wait_until_not_ready(service, "the publisher has no connection")
        gate.touch()
        eventually(
            lambda: service.metric('alarmdigest_queue_bytes{queue="publisher"}') >= 1_000_000,
            what="a full queue",
        )
        for _look in range(20):
            assert 0 < service.metric(MADE) < count
            assert service.metric("alarmdigest_backlog_bytes") > 1_000_000
            assert service.metric("alarmdigest_unconfirmed_bytes") < MOST_UNCONFIRMED
        proxy.accept()
        digests = bus.wait_for_digests(count)
        assert sorted(numbers(digests)) == list(range(count))
        assert_in_order_for_each_user(once_each(digests))
        assert service.metric("alarmdigest_backlog_bytes") == 0


def test_what_a_killed_server_had_not_confirmed_is_published_again(tmp_path: Path) -> None:
    """Nobody knows whether it was delivered: it may come twice, then with the same id."""
    gate, count = tmp_path / "open", 3000
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url, program=gated(gate, BOUNDS)) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all(pairs(range(count), padding=PADDING))
        eventually(lambda: service.metric(RECEIVED) == count, what="the requests read")
        # From here on the service's bytes go out, but nothing comes back: no confirmation.
        server.pause()
        gate.touch()
        sent = "alarmdigest_unconfirmed_bytes"
        eventually(lambda: service.metric(sent) > 100_000, what="a full window")
        assert max(service.metric(sent) for _look in range(20)) < MOST_UNCONFIRMED
        assert service.metric('alarmdigest_published_total{kind="digest"}') == 0
        proxy.refuse()
        server.kill()
        server.start()
        rejoin(bus, server, 0)
        proxy.accept()
        digests = bus.wait_for_digests(count)
        assert sorted(numbers(once_each(digests))) == list(range(count))
        assert_in_order_for_each_user(once_each(digests))
        assert service.metric("alarmdigest_resent_total") > 0
