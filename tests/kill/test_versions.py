"""The service on older servers, from the oldest that it supports on. What they lack is in the
table of the README; here stands that nothing is lost, doubled or made up on any of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pipeline.sources.test_rereads import ASK, NOT_ANSWERED, alarms, assert_digests
from support.bus import Bus
from support.faults import pairs, patched
from support.nats_server import NatsServer
from support.server_versions import OLDER_SERVERS, server_of
from support.service import ServiceProcess
from support.streams import (
    ALARMS,
    DIGESTS,
    INPUTS,
    MADE_ANEW,
    ROLLED_BACK,
    SavedAlarms,
    add,
    delete,
    info,
    js,
    numbers_in,
    store_all,
    stream_service,
    update,
    wait_until_read,
)
from support.wait import eventually

pytestmark = pytest.mark.versions


@pytest.fixture(params=OLDER_SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[NatsServer]:
    with NatsServer(binary=server_of(request.param)) as server:
        yield server


@pytest.fixture
def bus(server: NatsServer) -> Iterator[Bus]:
    with Bus(server.url) as bus:
        yield bus


@pytest.mark.parametrize("running", [True, False])
def test_an_edit_between_two_restarts_makes_no_other_stream_and_no_digest(
    server: NatsServer, bus: Bus, running: bool
) -> None:
    with stream_service(server.url) as service:
        store_all(bus, [*alarms("a"), ASK])
        assert_digests(bus, service, ["a"])
        store_all(bus, alarms("b"))
        wait_until_read(service, 3)
        if not running:
            assert service.stop() == 0
        before = info(bus, ALARMS)
        server.stop()
        server.start()
        update(bus, ALARMS, max_age=8 * 86_400)
        server.stop()
        server.start()
        after = info(bus, ALARMS)
        assert before is not None
        assert after is not None
        assert before.created != after.created, "or this test tries nothing"
        if not running:
            service.start()
        store_all(bus, alarms("c"))
        wait_until_read(service, 4)
        for name in (MADE_ANEW, ROLLED_BACK, NOT_ANSWERED):
            assert service.metric(name) == 0, service.log
        store_all(bus, [ASK])
        assert_digests(bus, service, ["a"], ["b", "c"])


def test_a_stream_that_was_put_back_and_edited(server: NatsServer, bus: Bus) -> None:
    """Rolled back, and with another time of creation besides."""
    with stream_service(server.url) as service:
        store_all(bus, [*alarms("a"), ASK])
        assert_digests(bus, service, ["a"])
        saved = SavedAlarms(server)
        store_all(bus, alarms("b"))
        wait_until_read(service, 3)
        assert service.stop() == 0
        saved.put_back()
        update(bus, ALARMS, max_age=8 * 86_400)
        server.stop()
        server.start()
        store_all(bus, [*alarms("c"), ASK])
        service.start()
        assert_digests(bus, service, ["a"], ["b", "c"])
        assert service.metric(NOT_ANSWERED) == 1


@pytest.mark.parametrize("running", [True, False])
def test_a_stream_that_was_put_back(server: NatsServer, bus: Bus, running: bool) -> None:
    with stream_service(server.url) as service:
        store_all(bus, [*alarms("a"), ASK])
        assert_digests(bus, service, ["a"])
        saved = SavedAlarms(server)
        store_all(bus, alarms("b"))
        wait_until_read(service, 3)
        if not running:
            assert service.stop() == 0
        saved.put_back()
        store_all(bus, [*alarms("c", "d"), ASK])
        if not running:
            service.start()
        assert_digests(bus, service, ["a"], ["b", "c", "d"])


def test_a_stream_that_was_made_anew(server: NatsServer, bus: Bus) -> None:
    with stream_service(server.url) as service:
        store_all(bus, [*alarms("a"), ASK, *alarms("b")])
        assert_digests(bus, service, ["a"])
        wait_until_read(service, 3)
        assert service.stop() == 0
        delete(bus, ALARMS)
        add(bus, ALARMS, INPUTS)
        store_all(bus, [*alarms("c", "d"), ASK])
        service.start()
        assert_digests(bus, service, ["a"], ["b", "c", "d"])
        assert service.metric(MADE_ANEW) == 1


def test_kills_on_both_sides_leave_each_digest_once(server: NatsServer, bus: Bus) -> None:
    with stream_service(server.url) as service:
        for first in range(0, 40, 10):
            store_all(bus, pairs(range(first, first + 5)))
            service.kill()
            store_all(bus, pairs(range(first + 5, first + 10)))
            server.kill()
            server.start()
            service.start()
        eventually(lambda: len(numbers_in(bus)) >= 40, what=f"all digests; {service.log}")
        assert sorted(numbers_in(bus)) == list(range(40))
        assert service.metric("alarmdigest_stream_deleted_total") == 0


def test_an_idle_service_keeps_its_connection_when_pulls_end(server: NatsServer, bus: Bus) -> None:
    short = patched(
        "import alarmdigest.pipeline.sources.pulls as pulls\n"
        "assert pulls.PULL_EXPIRES_S; pulls.PULL_EXPIRES_S = 4"
    )
    with ServiceProcess(server.url, mode="stream", program=short) as service:
        store_all(bus, pairs([1]))
        eventually(lambda: numbers_in(bus) == [1], what="the digest")
        pulls = bus.run(js(bus).consumers_info(ALARMS))[0].num_waiting
        assert pulls
        # Each of them ends twice.
        with pytest.raises(AssertionError, match="waited"):
            eventually(lambda: "connection lost" in service.log, timeout=9.0)
        store_all(bus, pairs([2]))
        eventually(lambda: numbers_in(bus) == [1, 2], what="the digest behind it")
        assert service.metric("alarmdigest_listener_connections_lost_total") == 0


def test_a_stream_with_subjects_of_others_counts_what_is_missing(
    server: NatsServer, bus: Bus
) -> None:
    add(bus, ALARMS, [*INPUTS, "others.>"])
    store_all(bus, [("others.x", b"1"), *pairs([0]), ("others.x", b"2"), *pairs([1])])
    for sequence in (3, 4):  # a request of ours, and a message of others
        assert bus.run(js(bus).delete_msg(ALARMS, sequence))
    with stream_service(server.url) as service:
        eventually(lambda: numbers_in(bus) == [1], what="the digest that is left")
        assert service.metric("alarmdigest_stream_deleted_total") == 2
        assert service.metric("alarmdigest_stream_foreign_total") == 1
        service.wait_for_log("messages were deleted before we read them, while .* missing=2 ")
        assert DIGESTS in service.log
