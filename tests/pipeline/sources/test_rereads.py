"""Whatever happens to the input stream, its digests are those that were asked for: a request that
was answered is not answered again out of a newer state, and a new one is answered."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import orjson
import pytest
from support.bus import Bus
from support.faults import Message, event, request
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.stream_backup import backup_of, restore
from support.stream_clock import shift_times
from support.streams import (
    ALARMS,
    DIGESTS,
    INPUTS,
    MADE_ANEW,
    ROLLED_BACK,
    SavedAlarms,
    add,
    bodies,
    delete,
    js,
    last_of,
    store_all,
    stream_service,
    wait_until_read,
)
from support.wait import eventually

NOT_ANSWERED = "alarmdigest_stream_requests_not_answered_again_total"
USER = "u"
HOUR_NS = 3600 * 10**9


def alarms(*names: str) -> list[Message]:
    return [event(USER, name) for name in names]


ASK = request(USER)


def digests(bus: Bus) -> list[list[str]]:
    """The alarms of each digest that the stream holds."""
    return [
        [alarm["AlarmID"] for alarm in orjson.loads(body)["ActiveAlarms"]]
        for body in bodies(bus, DIGESTS)
    ]


def assert_digests(bus: Bus, service: ServiceProcess, *wanted: list[str]) -> None:
    """Of a state where ``b`` may be due: a request that tells whether it still is, and that nothing
    else was published before it."""
    eventually(lambda: last_of(bus, DIGESTS) >= len(wanted), what=f"{wanted}; {service.log}")
    assert digests(bus) == list(wanted), service.log


@contextmanager
def held(service: ServiceProcess) -> Iterator[None]:
    """It runs, and does not look at the stream meanwhile: nats-server shows one that is being
    restored message by message, and the part that came after a look would be taken for new."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.process.send_signal(signal.SIGCONT)


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def bus(server: NatsServer) -> Iterator[Bus]:
    with Bus(server.url) as bus:
        yield bus


@pytest.fixture
def service(server: NatsServer) -> Iterator[ServiceProcess]:
    with stream_service(server.url) as service:
        yield service


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("on_top", [[], [*alarms("d"), ASK], [*alarms("d", "e", "f"), ASK]])
def test_a_stream_that_was_put_back_and_grew(
    server: NatsServer, bus: Bus, service: ServiceProcess, running: bool, on_top: list[Message]
) -> None:
    store_all(bus, [*alarms("a"), ASK])
    assert_digests(bus, service, ["a"])
    saved = SavedAlarms(server)
    store_all(bus, alarms("b", "c"))
    wait_until_read(service, 4)
    if not running:
        assert service.stop() == 0
    saved.put_back()
    store_all(bus, on_top)
    if not running:
        service.start()
    eventually(lambda: service.metric(ROLLED_BACK) == 1, what="the roll-back to be seen")
    if not on_top:
        store_all(bus, [ASK])
        on_top = [ASK]
    more = [chr(ord("d") + number) for number in range(len(on_top) - 1)]
    assert_digests(bus, service, ["a"], ["b", "c", *more])
    assert service.metric(NOT_ANSWERED) == 1
    assert service.metric(MADE_ANEW) == 0


@pytest.mark.parametrize("running", [True, False])
def test_a_stream_that_was_restored_from_an_older_backup(
    bus: Bus, service: ServiceProcess, running: bool
) -> None:
    store_all(bus, [*alarms("a"), ASK])
    assert_digests(bus, service, ["a"])
    backup = backup_of(bus, ALARMS)
    store_all(bus, alarms("b"))
    wait_until_read(service, 3)
    if not running:
        assert service.stop() == 0
    with held(service) if running else nullcontext():
        delete(bus, ALARMS)
        restore(bus, backup)
    store_all(bus, [*alarms("c"), ASK])
    if not running:
        service.start()
    assert_digests(bus, service, ["a"], ["b", "c"])
    assert service.metric(NOT_ANSWERED) == 1


def test_what_is_forgotten_again_is_no_more_than_before(bus: Bus, service: ServiceProcess) -> None:
    """What came after the message stays: told is told, and due is due."""
    forget = ("ForgetUser", ASK[1])
    store_all(bus, [*alarms("a"), ASK, forget, *alarms("a"), ASK])
    assert_digests(bus, service, ["a"], ["a"])
    backup = backup_of(bus, ALARMS)
    store_all(bus, alarms("b"))
    wait_until_read(service, 6)
    with held(service):
        delete(bus, ALARMS)
        restore(bus, backup)
    store_all(bus, [*alarms("c"), ASK])
    assert_digests(bus, service, ["a"], ["a"], ["b", "c"])
    assert service.metric('alarmdigest_received_total{kind="forget"}') == 2


def test_a_stream_that_was_restored_as_it_was_goes_on(bus: Bus, service: ServiceProcess) -> None:
    store_all(bus, [*alarms("a"), ASK, *alarms("b")])
    wait_until_read(service, 3)
    assert service.stop() == 0
    backup = backup_of(bus, ALARMS)
    delete(bus, ALARMS)
    restore(bus, backup)
    service.start()
    store_all(bus, [ASK])
    assert_digests(bus, service, ["a"], ["b"])
    assert (service.metric(MADE_ANEW), service.metric(ROLLED_BACK)) == (0, 0)
    assert service.metric('alarmdigest_received_total{kind="request"}') == 1


@pytest.mark.parametrize("first_seq", [None, 2, 1000])
@pytest.mark.parametrize("running", [True, False])
def test_a_stream_that_was_made_anew_is_read_from_its_first_message(
    bus: Bus, service: ServiceProcess, running: bool, first_seq: int | None
) -> None:
    store_all(bus, [*alarms("a"), ASK, *alarms("b")])
    assert_digests(bus, service, ["a"])
    wait_until_read(service, 3)
    if not running:
        assert service.stop() == 0
    delete(bus, ALARMS)
    add(bus, ALARMS, INPUTS, first_seq=first_seq)
    store_all(bus, [*alarms("c", "d"), ASK, *alarms("e"), ASK])
    if not running:
        service.start()
    assert_digests(bus, service, ["a"], ["b", "c", "d"], ["e"])
    assert service.metric(MADE_ANEW) == 1
    assert service.metric(NOT_ANSWERED) == 0
    assert service.metric("alarmdigest_stream_unread_lost_total") == 0


def test_a_stream_made_anew_whose_message_at_our_place_is_gone_is_read_from_its_first(
    bus: Bus, service: ServiceProcess
) -> None:
    store_all(bus, [*alarms("a"), ASK, *alarms("b")])
    assert_digests(bus, service, ["a"])
    assert service.stop() == 0
    delete(bus, ALARMS)
    add(bus, ALARMS, INPUTS)
    store_all(bus, [*alarms("c", "d", "e"), ASK])
    assert bus.run(js(bus).delete_msg(ALARMS, 3))
    service.start()
    assert_digests(bus, service, ["a"], ["b", "c", "d"])


def test_a_service_that_is_killed_while_it_reads_again_does_not_forget_what_it_knows(
    server: NatsServer, bus: Bus, service: ServiceProcess
) -> None:
    store_all(bus, [*alarms("a"), ASK, *alarms("b")])
    backup = backup_of(bus, ALARMS)
    store_all(bus, [ASK, *alarms("c")])
    assert_digests(bus, service, ["a"], ["b"])
    wait_until_read(service, 5)
    assert service.stop() == 0
    delete(bus, ALARMS)
    restore(bus, backup)
    store_all(bus, [*alarms("d"), ASK])
    # It pulls one message at a time, and no second one: the rest is left to the next start.
    code = """
import alarmdigest.pipeline.sources.pulls as pulls
import alarmdigest.pipeline.sources.pull_consumer as source
assert pulls.PULL_MESSAGES and pulls.ALL_PULLS_BYTES
pulls.PULL_MESSAGES = pulls.ALL_PULLS_BYTES = 1
turn = source.PullConsumerSource.request_more
source.PullConsumerSource.request_more = lambda self, connection, router, *, pause: turn(
    self, connection, router, pause=pause or self._pulls._asked > 0)
import sys
from alarmdigest.cli.main import main
sys.exit(main())
"""
    slow = ServiceProcess(
        server.url,
        mode="stream",
        options=["--checkpoint-interval", "50ms", "--data-dir", str(service.data_dir)],
        program=("-c", code),
    )
    slow.start()
    try:
        wait_until_read(slow, 1)
        before = slow.metric("alarmdigest_checkpoints_total")
        eventually(
            lambda: slow.metric("alarmdigest_checkpoints_total") > before or before >= 1,
            what="a checkpoint in the middle",
        )
    finally:
        slow.kill()
    service.start()
    assert "position=1" in service.log
    assert_digests(bus, service, ["a"], ["b"], ["c", "d"])


def test_what_a_service_without_streams_has_answered_is_not_answered_again(
    server: NatsServer, bus: Bus
) -> None:
    add(bus, ALARMS, INPUTS)
    with ServiceProcess(server.url, mode="core", options=["--workers", "2"]) as service:
        store_all(bus, [*alarms("a"), ASK])
        bus.wait_for_digests(1)
        store_all(bus, alarms("b"))
        eventually(lambda: service.metric('alarmdigest_received_total{kind="event"}') == 2)
        assert service.stop() == 0
        store_all(bus, alarms("c"))
        service.change_options("--mode", "stream")
        service.start()
        wait_until_read(service, 4)
        assert service.metric(NOT_ANSWERED) == 1
        store_all(bus, [ASK])
        bus.wait_for_digests(2)
        assert digests(bus) == [["b", "c"]]


def test_a_stream_and_its_clock_that_went_back_leave_old_requests_unanswered(
    server: NatsServer, bus: Bus, service: ServiceProcess
) -> None:
    """The clock had stepped back before, so nothing tells what was read from what was not."""
    store_all(bus, [*alarms("a"), ASK])
    assert_digests(bus, service, ["a"])
    assert service.stop() == 0
    server.stop()
    shift_times(server.store, ALARMS, HOUR_NS)
    server.start()
    service.start()
    eventually(lambda: service.metric(ROLLED_BACK) == 1, what="another message at our place")
    store_all(bus, alarms("b"))
    wait_until_read(service, 3)
    saved = SavedAlarms(server)
    store_all(bus, alarms("c"))
    wait_until_read(service, 4)
    saved.put_back()
    eventually(lambda: service.metric(ROLLED_BACK) == 2, what="the roll-back to be seen")
    wait_until_read(service, 3)
    assert service.metric(NOT_ANSWERED) == 1
    store_all(bus, [ASK])
    assert_digests(bus, service, ["a"], ["b", "c"])
