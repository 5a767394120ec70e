"""The input stream truncated, recreated, emptied or shortened under the service: what is there
in the end is read, and what is not is counted."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.bus import Bus
from support.faults import (
    assert_in_order_for_each_user,
    numbers,
    once_each,
    pairs,
    patched,
)
from support.nats_server import NatsServer
from support.scale import cases
from support.service import ServiceProcess
from support.streams import (
    ALARMS,
    DIGESTS,
    INPUTS,
    MADE_ANEW,
    ROLLED_BACK,
    Saved,
    Traffic,
    add,
    delete,
    info,
    js,
    last_of,
    numbers_asked_for,
    store_all,
    stream_service,
    update,
    wait_until_read,
)
from support.wait import eventually


def wait_for_numbers(bus: Bus, wanted: set[int], service: ServiceProcess) -> None:
    """Until each of these alarms was in a digest."""
    try:
        eventually(
            lambda: wanted <= set(numbers(bus.digests)),
            timeout=15,
            what="the digests of all alarms",
        )
    except AssertionError as error:
        missing = sorted(wanted - set(numbers(bus.digests)))
        raise AssertionError(f"missing: {missing}\n{service.log}") from error


def wait_for_metric(service: ServiceProcess, name: str, goal: float) -> None:
    eventually(lambda: service.metric(name) >= goal, what=f"{name} to be {goal}")


def freeze(service: ServiceProcess) -> None:
    os.kill(service.process.pid, signal.SIGSTOP)


def thaw(service: ServiceProcess) -> None:
    os.kill(service.process.pid, signal.SIGCONT)


# -- rolled back -----------------------------------------------------------------------------------

# Of 40 messages the server forgets the last 20; then this many take their places.
ON_TOP = [0, 7, 20, 33]


@pytest.mark.parametrize("on_top", ON_TOP)
def test_a_server_that_went_back_under_a_running_service_is_read_on_from_there(
    on_top: int,
) -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        saved = Saved(server)
        store_all(bus, pairs(range(10, 20)))
        bus.wait_for_digests(20)
        wait_until_read(service, 40)
        # It comes back to a server on which the numbers are taken again already.
        freeze(service)
        saved.put_back()
        messages = pairs(range(100, 140))
        store_all(bus, messages[:on_top])
        assert last_of(bus, ALARMS) == 20 + on_top
        thaw(service)
        service.wait_for_log("ERROR .*ALARMS has lost its newest messages")
        store_all(bus, messages[on_top:])
        wait_for_numbers(bus, set(range(100, 140)), service)
        assert_in_order_for_each_user(once_each(bus.digests))
        assert service.metric(ROLLED_BACK) == 1
        assert service.metric("alarmdigest_stream_position") == 20 + len(messages)


@pytest.mark.parametrize("on_top", ON_TOP)
def test_a_server_that_went_back_while_the_service_was_down_is_read_on_from_there(
    on_top: int,
) -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        saved = Saved(server)
        store_all(bus, pairs(range(10, 20)))
        bus.wait_for_digests(20)
        assert service.stop() == 0
        saved.put_back()
        messages = pairs(range(100, 140))
        store_all(bus, messages[:on_top])
        service.start()
        service.wait_for_log("ERROR .*ALARMS has lost its newest messages")
        assert service.metric(ROLLED_BACK) == 1
        store_all(bus, messages[on_top:])
        wait_for_numbers(bus, set(range(100, 140)), service)
        wait_until_read(service, 20 + len(messages))
        # And the new place is the one that counts from then on.
        assert service.stop() == 0
        service.start()
        assert service.metric(ROLLED_BACK) == 0
        store_all(bus, pairs([200]))
        wait_for_numbers(bus, {200}, service)
        assert_in_order_for_each_user(once_each(bus.digests))


def test_a_roll_back_is_counted_once_however_often_the_connection_breaks() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        saved = Saved(server)
        store_all(bus, pairs(range(10, 20)))
        bus.wait_for_digests(20)
        saved.put_back()
        service.wait_for_log("ALARMS has lost its newest messages")
        lost = service.metric("alarmdigest_listener_connections_lost_total")
        for goal in (lost + 1, lost + 2):
            server.kill()
            server.start()
            wait_for_metric(service, "alarmdigest_listener_connections_lost_total", goal)
            eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
        assert service.metric(ROLLED_BACK) == 1
        store_all(bus, pairs([100]))
        wait_for_numbers(bus, {100}, service)


# -- deleted and recreated -------------------------------------------------------------------------


def test_a_stream_that_is_deleted_is_made_anew_and_read_from_its_first_message() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        for time in range(1, 4):
            delete(bus, ALARMS)
            wait_for_metric(service, MADE_ANEW, time)
            store_all(bus, pairs(range(time * 100, time * 100 + 10)))
            wait_for_numbers(bus, set(numbers_asked_for(bus)), service)
        eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
        assert "ALARMS was recreated" in service.log
        assert_in_order_for_each_user(once_each(bus.digests))


def test_a_stream_that_is_made_anew_under_traffic_skips_nothing_that_it_holds() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        with Traffic(bus) as traffic:
            for _ in range(cases(3, 20)):
                traffic.wait_for(50)
                delete(bus, ALARMS)
            traffic.wait_for(100)
        there = numbers_asked_for(bus)
        assert len(there) >= 50
        # The last one may have been stored without its request.
        wait_for_numbers(bus, set(there[:-1]), service)
        assert service.metric(MADE_ANEW) >= 3
        assert_in_order_for_each_user(once_each(bus.digests))


def test_a_stream_made_anew_is_counted_once_also_if_nothing_comes_until_the_next_connection() -> (
    None
):
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        delete(bus, ALARMS)
        wait_for_metric(service, MADE_ANEW, 1)
        lost = service.metric("alarmdigest_listener_connections_lost_total")
        server.kill()
        server.start()
        wait_for_metric(service, "alarmdigest_listener_connections_lost_total", lost + 1)
        eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
        assert service.metric(MADE_ANEW) == 1
        store_all(bus, pairs(range(100, 110)))
        wait_for_numbers(bus, set(range(100, 110)), service)


def test_a_stream_made_anew_while_the_service_was_down_is_read_from_its_first_message() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        assert service.stop() == 0
        delete(bus, ALARMS)
        add(bus, ALARMS, INPUTS)
        store_all(bus, pairs(range(100, 120)))
        service.start()
        wait_for_numbers(bus, set(range(100, 120)), service)
        assert service.metric(MADE_ANEW) == 1
        assert "ERROR" in service.log
        assert "ALARMS was recreated" in service.log


def test_whoever_deletes_a_stream_has_the_time_to_make_it_anew_with_other_limits() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        delete(bus, ALARMS)
        service.wait_for_log("stream ALARMS was deleted; we make it again soon")
        add(bus, ALARMS, INPUTS, max_msgs=1000)
        store_all(bus, pairs(range(10)))
        wait_for_numbers(bus, set(range(10)), service)
        found = info(bus, ALARMS)
        assert found is not None
        assert found.config.max_msgs == 1000


def test_a_stream_that_we_may_not_make_is_waited_for() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        for name, subjects in [
            (ALARMS, INPUTS),
            (DIGESTS, ["AlarmDigest"]),
            ("ALARM_REJECTED", ["AlarmRejected"]),
        ]:
            add(bus, name, subjects)
        with stream_service(server.url, "--no-create-streams") as service:
            store_all(bus, pairs(range(10)))
            bus.wait_for_digests(10)
            delete(bus, ALARMS)
            eventually(
                lambda: (
                    "there is no stream ALARMS, and we may not create it"
                    in service.http("/readyz")[1]
                ),
                what="the reason",
            )
            assert service.http("/readyz")[0] == 503
            assert service.http("/healthz")[0] == 200
            assert info(bus, ALARMS) is None
            add(bus, ALARMS, INPUTS)
            store_all(bus, pairs(range(100, 110)))
            wait_for_numbers(bus, set(range(100, 110)), service)
            assert service.http("/readyz") == (200, "ok\n")
            assert service.metric(MADE_ANEW) == 1


# -- purged, shortened, with holes -----------------------------------------------------------------


def test_what_was_purged_while_the_service_was_down_is_counted_and_the_rest_is_read() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        assert service.stop() == 0
        store_all(bus, pairs(range(10, 20)))
        bus.run(js(bus).purge_stream(ALARMS))
        store_all(bus, pairs(range(20, 30)))
        service.start()
        wait_for_numbers(bus, set(range(20, 30)), service)
        assert "20 messages were deleted before we read them" in service.log
        assert service.metric("alarmdigest_stream_unread_lost_total") == 20
        assert service.metric('alarmdigest_lost_total{place="stream_unread_lost"}') == 20
        assert service.metric("alarmdigest_stream_deleted_total") == 0
        assert service.metric(ROLLED_BACK) == 0
        assert sorted(numbers(bus.digests)) == [*range(10), *range(20, 30)]


def test_a_stream_that_was_purged_and_holds_nothing_is_gone_on_with() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        assert service.stop() == 0
        store_all(bus, pairs(range(10, 20)))
        bus.run(js(bus).purge_stream(ALARMS))
        service.start()
        assert service.metric("alarmdigest_stream_unread_lost_total") == 20
        service.kill()
        service.start()
        store_all(bus, pairs(range(20, 30)))
        wait_for_numbers(bus, set(range(20, 30)), service)


def test_what_the_limits_deleted_while_the_service_was_down_is_counted() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        assert service.stop() == 0
        update(bus, ALARMS, max_msgs=16)
        store_all(bus, pairs(range(10, 30)))
        service.start()
        wait_for_numbers(bus, set(range(22, 30)), service)
        assert service.metric("alarmdigest_stream_unread_lost_total") == 24
        assert service.metric("alarmdigest_stream_deleted_total") == 0
        assert "24 messages were deleted before we read them" in service.log


def test_single_messages_that_were_deleted_are_counted() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        assert service.stop() == 0
        store_all(bus, pairs(range(10, 20)))
        for sequence in (20, 25, 26, 33):  # the last that was read, and three that were not
            assert bus.run(js(bus).delete_msg(ALARMS, sequence))
        service.start()
        gone = {(25 - 1) // 2, (33 - 1) // 2}
        wait_for_numbers(bus, set(range(10, 20)) - gone, service)
        assert service.metric("alarmdigest_stream_deleted_total") == 3
        assert service.metric("alarmdigest_stream_unread_lost_total") == 0
        assert service.metric(ROLLED_BACK) == 0


def test_a_purge_under_a_service_that_lags_does_not_leave_it_catching_up_for_ever(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    asks_once = patched(f"""
import pathlib
from alarmdigest.pipeline.sources.pull_consumer import PullConsumerSource
turn = PullConsumerSource.request_more
def turn_once(self, connection, router, *, pause):
    turn(self, connection, router, pause=pause or not pathlib.Path({str(gate)!r}).exists())
PullConsumerSource.request_more = turn_once
""")
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, ALARMS, INPUTS)
        bus.publish_all(pairs(range(30_000)))
        eventually(lambda: last_of(bus, ALARMS) == 60_000, what="60,000 messages to be stored")
        with ServiceProcess(server.url, mode="stream", program=asks_once) as service:
            wait_until_read(service, 20_000)
            assert "catching up: 40000 messages behind" in service.http("/readyz")[1]
            bus.run(js(bus).purge_stream(ALARMS))
            gate.touch()
            eventually(lambda: service.http("/readyz")[0] == 200, what="ready")
            store_all(bus, pairs([10**6]))
            wait_for_numbers(bus, {10**6}, service)
            assert service.metric("alarmdigest_stream_position") == 60_002
            assert service.metric("alarmdigest_stream_deleted_total") == 40_000


def test_idle_starts_and_stops_leave_the_position_where_it_is() -> None:
    with NatsServer() as server, stream_service(server.url) as service, Bus(server.url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        for _ in range(3):
            assert service.stop() == 0
            service.start()
            assert service.metric(ROLLED_BACK) == 0
            assert service.metric("alarmdigest_stream_position") == 20
        store_all(bus, pairs([20]))
        wait_for_numbers(bus, {20}, service)
        assert service.metric('alarmdigest_received_total{kind="event"}') == 1
