"""Cleared alarms are forgotten when their time has come: in the books, in the store, in memory."""

from __future__ import annotations

import sys

import pytest
from support.bus import Bus
from support.faults import publish_surely, request
from support.nats_server import NatsServer
from support.service import ServiceProcess, memory
from support.stored import stored_alarms, stored_rows
from support.wait import eventually

pytestmark = pytest.mark.slow

PAST = "2021-06-07T20:40:{:02}Z"


def status(user: str, alarm: str, word: str, second: int) -> tuple[str, bytes]:
    changed_at = PAST.format(second)
    body = f'{{"AlarmID":"{alarm}","UserID":"{user}","Status":"{word}","ChangedAt":"{changed_at}"}}'
    return "AlarmStatusChanged", body.encode()


FORGETFUL = ["--retention", "1s", "--checkpoint-interval", "100ms", "--workers", "3"]


@pytest.mark.parametrize("mode", ["core", "stream"])
def test_cleared_alarms_are_forgotten_with_little_traffic_and_their_rows_go_too(mode: str) -> None:
    cleared, active = 30_000, 10
    with (
        NatsServer(jetstream_extra="max_buffered_msgs: 200000") as server,
        ServiceProcess(server.url, mode=mode, options=FORGETFUL) as service,
        Bus(server.url) as bus,
    ):
        publish_surely(
            bus, [status(f"user-{n % 3000}", f"alarm-{n}", "CLEARED", 1) for n in range(cleared)]
        )
        publish_surely(bus, [status("user-1", f"active-{n}", "WARNING", 1) for n in range(active)])
        there = cleared + active
        # A service that is slow may have begun to forget already.
        eventually(
            lambda: service.metric("alarmdigest_book_events_total") == there, what="all events"
        )

        def forgotten() -> bool:
            publish_surely(bus, [status("user-1", "active-0", "WARNING", 1)])
            return service.metric("alarmdigest_alarms") == active

        eventually(forgotten, interval=0.1, what="the end of all cleared alarms")
        assert service.metric("alarmdigest_book_swept_total") == cleared
        eventually(lambda: stored_rows(service.data_dir) == 1, what="the end of their rows")
        assert stored_alarms(service.data_dir) == active
        assert service.stop() == 0
        service.start()
        assert service.metric("alarmdigest_alarms") == active
        publish_surely(bus, [request("user-1")])
        (digest,) = bus.wait_for_digests(1)
        assert len(digest.json["ActiveAlarms"]) == active


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory")
def test_the_place_of_forgotten_alarms_is_used_again_in_memory_and_on_disk() -> None:
    with (
        NatsServer() as server,
        ServiceProcess(server.url, options=FORGETFUL) as service,
        Bus(server.url) as bus,
    ):
        data = service.data_dir / "state" / "data.mdb"

        def wave(number: int) -> tuple[int, int]:
            """Memory and file after as many alarms more, and their end."""
            users = [f"{number}-{n}".ljust(40, "u") for n in range(20_000)]
            publish_surely(bus, [status(user, "alarm", "CLEARED", 1) for user in users])

            def forgotten() -> bool:
                publish_surely(bus, [status("u", "a", "WARNING", 1)])
                return service.metric("alarmdigest_alarms") == 1

            eventually(forgotten, interval=0.1, what="the end of the wave")
            return memory(service), data.stat().st_size

        first = [wave(number) for number in range(2)]
        last = [wave(number) for number in range(2, 5)]
        assert last[-1][0] < first[-1][0] * 1.2
        assert last[-1][1] < first[-1][1] * 1.5


@pytest.mark.parametrize("mode", ["core", "stream"])
def test_a_late_event_revives_no_alarm_before_it_is_forgotten_and_any_alarm_after(
    mode: str,
) -> None:
    options = ["--retention", "4s", "--checkpoint-interval", "100ms"]
    late = [status("u", "a", "WARNING", 1), request("u")]
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode=mode, options=options) as service,
        Bus(server.url) as bus,
    ):

        def nothing_but_other(count: int) -> None:
            """The late event and a request change nothing for ``u``."""
            other = status("other", f"{count}", "WARNING", 1), request("other")
            publish_surely(bus, [*late, *other])
            assert {one.json["UserID"] for one in bus.wait_for_digests(count)} == {"other"}

        publish_surely(bus, [status("u", "a", "CLEARED", 2)])
        nothing_but_other(1)
        eventually(lambda: stored_alarms(service.data_dir) == 2, what="both in the store")
        nothing_but_other(2)  # the sweep has come by
        assert service.stop() == 0
        service.start()
        nothing_but_other(3)

        def swept() -> bool:
            publish_surely(bus, [status("other", "1", "WARNING", 1)])
            return service.metric("alarmdigest_book_swept_total") == 1

        eventually(swept, interval=0.05, what="the sweep")
        publish_surely(bus, late)
        assert [one["AlarmID"] for one in bus.wait_for_digests(4)[3].json["ActiveAlarms"]] == ["a"]
