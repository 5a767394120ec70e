"""A server whose clock steps back a day: what it stores from then on is older than what came
before. Nothing is skipped or read twice, and arrivals go on from where they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from support.bus import Bus
from support.faults import Message, event, pairs, request
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.stream_clock import shift_times
from support.streams import (
    ALARMS,
    DIGESTS,
    INPUTS,
    ROLLED_BACK,
    Saved,
    add,
    bodies,
    js,
    last_of,
    numbers_in,
    store_all,
    stream_service,
    wait_until_read,
)
from support.wait import eventually

DAY_NS = 86_400 * 10**9


@contextmanager
def clock_went_back(
    first: list[Message], *options: str
) -> Iterator[tuple[NatsServer, Bus, ServiceProcess]]:
    """A server on which ``first`` is stamped with tomorrow's times, and everything else with
    today's; and a service that has read it."""
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, ALARMS, INPUTS)
        store_all(bus, first)
        server.stop()
        assert shift_times(server.store, ALARMS, DAY_NS) == len(first)
        server.start()
        with stream_service(server.url, *options) as service:
            wait_until_read(service, len(first))
            yield server, bus, service


def wait_for_digests_of(bus: Bus, wanted: list[int], service: ServiceProcess) -> None:
    eventually(
        lambda: set(wanted) <= set(numbers_in(bus)),
        interval=0.1,
        what="the digests of all alarms",
    )
    assert sorted(numbers_in(bus)) == wanted, service.log


def test_a_clock_that_steps_back_skips_and_repeats_nothing_also_over_a_restart() -> None:
    with clock_went_back(pairs(range(10))) as (_server, bus, service):
        store_all(bus, pairs(range(10, 20)))
        wait_for_digests_of(bus, list(range(20)), service)
        for number in (20, 30):
            assert service.stop() == 0
            store_all(bus, pairs(range(number, number + 5)))
            service.start()
            wait_for_digests_of(bus, list(range(number + 5)), service)
            service.kill()
            store_all(bus, pairs(range(number + 5, number + 10)))
            service.start()
            wait_for_digests_of(bus, list(range(number + 10)), service)
            assert service.metric(ROLLED_BACK) == 0
        assert service.metric("alarmdigest_stream_position") == 80


def test_arrivals_go_on_behind_those_of_before_the_step_also_over_a_restart() -> None:
    """An event of the far future counts as of its arrival and the skew: its digest tells it."""

    def far_ahead(user: str) -> list[Message]:
        subject, body = event(user, "a")
        return [(subject, body.replace(b"2021", b"2200")), request(user)]

    with clock_went_back(far_ahead("before")) as (_server, bus, service):
        store_all(bus, far_ahead("after"))
        eventually(lambda: last_of(bus, DIGESTS) == 2, what="the digest after the step")
        assert service.stop() == 0
        service.start()
        store_all(bus, far_ahead("after a restart"))
        eventually(lambda: last_of(bus, DIGESTS) == 3, what="the digest after the restart")
        times = [body.rpartition(b'"LatestChangedAt":"')[2] for body in bodies(bus, DIGESTS)]
        assert times == sorted(set(times))


def test_a_clock_that_stepped_back_is_no_roll_back_where_our_last_message_is_gone() -> None:
    with clock_went_back(pairs(range(10))) as (_server, bus, service):
        assert service.stop() == 0
        store_all(bus, pairs(range(10, 20)))
        bus.run(js(bus).delete_msg(ALARMS, 20))
        service.start()
        wait_for_digests_of(bus, list(range(20)), service)


def test_a_server_that_went_back_together_with_its_clock_is_read_to_the_end() -> None:
    """What is on top is older than what we had read, and by time it would be passed over."""
    with clock_went_back(pairs(range(10))) as (server, bus, service):
        wait_for_digests_of(bus, list(range(10)), service)
        assert service.stop() == 0
        saved = Saved(server)
        store_all(bus, pairs(range(10, 15)))
        # These, too, were stored before the clock stepped back.
        server.stop()
        assert shift_times(server.store, ALARMS, DAY_NS, behind=20) == 10
        server.start()
        service.start()
        wait_until_read(service, 30)
        assert service.stop() == 0
        saved.put_back()
        store_all(bus, pairs(range(100, 110)))
        service.start()
        eventually(lambda: set(range(100, 110)) <= set(numbers_in(bus)), what="what is on top")
        assert service.metric(ROLLED_BACK) == 1
        assert "clock" in service.log
