"""JetStream switched off and on under the service, and starts that must be refused."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.bus import Bus
from support.faults import ChangingServer, numbers, pairs, publish_surely
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.streams import (
    ALARMS,
    DIGESTS,
    add,
    info,
    last_of,
    numbers_in,
    store_all,
    stream_service,
)
from support.wait import eventually

WITHOUT = 'accounts { APP { users: [{user: service, password: "s3cret"}] } }'
WITH_JETSTREAM = 'jetstream { store_dir: "." }'


@contextmanager
def fed_by_a_stream(url: str, *options: str) -> Iterator[ServiceProcess]:
    """A service that has stopped, with a place in the stream in its store."""
    with stream_service(url, *options) as service, Bus(url) as bus:
        store_all(bus, pairs(range(10)))
        bus.wait_for_digests(10)
        assert service.stop() == 0
        yield service


@contextmanager
def not_started(url: str, *options: str) -> Iterator[ServiceProcess]:
    service = stream_service(url, *options)
    try:
        yield service
    finally:
        service.__exit__(None, None, None)


def assert_refused(service: ServiceProcess, code: int, why: str, within: float = 5.0) -> None:
    started = time.monotonic()
    service.start(ready=False)
    assert service.wait() == code, service.log
    assert time.monotonic() - started < within
    assert re.search(why, service.log), service.log
    assert "Traceback" not in service.log


@pytest.mark.parametrize("whose", ["server", "account"])
def test_a_fall_to_core_mode_is_warned_of_unless_it_was_asked_for(whose: str) -> None:
    with NatsServer(jetstream=whose == "account", extra=WITHOUT) as server:
        url = server.url.replace("//", "//service:s3cret@")
        with ServiceProcess(environment={"NATS_URL": url}, mode="auto") as service:
            service.wait_for_log(
                rf"WARNING MainThread no JetStream on {server.url}: core mode; what is published "
                r"while this service is away is lost to it; --mode core says that this is wanted\n"
            )
            assert "ready mode=core" in service.log
            assert "s3cret" not in service.log
        with ServiceProcess(environment={"NATS_URL": url}, mode="core") as service:
            assert " WARNING " not in service.log


@pytest.mark.parametrize("mode", ["auto", "stream"])
def test_a_domain_that_is_out_of_reach_is_waited_for_and_no_reason_for_core_mode(
    mode: str,
) -> None:
    with (
        NatsServer(jetstream=False) as server,
        not_started(server.url, "--js-domain", "hub", "--connect-timeout", "2s") as service,
    ):
        with_mode(service, mode)
        service.start(ready=False)
        service.wait_for_log("trying again: nobody answers for the JetStream domain hub")
        assert service.wait() == 3, service.log
        assert "core mode" not in service.log


def with_mode(service: ServiceProcess, mode: str) -> ServiceProcess:
    at = service._arguments.index("--mode")
    service._arguments[at + 1] = mode
    return service


def test_jetstream_switched_off_and_on_again_costs_nothing() -> None:
    with (
        ChangingServer(jetstream=False, extra=WITH_JETSTREAM) as server,
        stream_service(server.url) as service,
        Bus(server.url) as bus,
    ):
        store_all(bus, pairs(range(20)))
        bus.wait_for_digests(20)
        server.stop()
        server.change("")
        server.start()

        def says_why() -> bool:
            status, text = service.http("/readyz")
            return status == 503 and text.count("$JS.API.STREAM.INFO") == 2

        eventually(says_why, what="/readyz to say that there is no JetStream, for both ways")
        assert service.http("/healthz")[0] == 200
        # Nobody keeps it; but the client would, until there is a server again.
        eventually(lambda: bus.client.is_connected, what="the client to be connected")
        publish_surely(bus, pairs([50]))
        server.stop()
        server.change(WITH_JETSTREAM)
        server.start()
        store_all(bus, pairs(range(100, 120)))
        eventually(lambda: len(numbers_in(bus)) == 40, timeout=15, what="the digests")
        assert sorted(numbers_in(bus)) == [*range(20), *range(100, 120)]
        eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
        assert 50 not in numbers(bus.digests)


def test_stream_mode_needs_a_server_with_jetstream() -> None:
    with NatsServer(jetstream=False) as server, not_started(server.url) as service:
        assert_refused(service, 3, "has no JetStream, which --mode stream needs")


def test_auto_mode_without_jetstream_is_core_mode_but_not_for_a_store_fed_by_a_stream() -> None:
    with (
        ChangingServer(jetstream=False, extra=WITH_JETSTREAM) as server,
        fed_by_a_stream(server.url) as service,
    ):
        server.stop()
        server.change("")
        server.start()
        assert_refused(with_mode(service, "auto"), 3, "no JetStream, which the store in .* needs")
        assert "mode=core" not in service.log


def test_core_mode_is_refused_for_a_store_fed_by_a_stream() -> None:
    with NatsServer() as server, fed_by_a_stream(server.url) as service:
        assert_refused(with_mode(service, "core"), 2, "--mode core: .* place in the stream ALARMS")


def test_another_input_stream_is_refused_for_a_store_fed_by_a_stream() -> None:
    with NatsServer() as server, fed_by_a_stream(server.url) as service:
        service._arguments += ["--events-stream", "OTHER"]
        assert_refused(service, 2, "was fed by the stream ALARMS, not by OTHER")


@pytest.mark.parametrize("subject", ["AlarmStatusChanged", "SendAlarmDigest.>", "AlarmDigest", ">"])
def test_a_stream_that_holds_our_subjects_is_named(subject: str) -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        no_ack = {"no_ack": True} if subject == ">" else {}
        add(bus, "FOREIGN", [subject], **no_ack)
        with not_started(server.url) as service:
            assert_refused(service, 2, "stream FOREIGN captures .*, and stream ALARM")
            assert "nats stream edit FOREIGN" in service.log


def test_missing_streams_are_a_usage_error_where_we_may_not_make_them() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        with not_started(server.url, "--no-create-streams") as service:
            assert_refused(service, 2, "there is no stream ALARMS, and we may not create it")
        assert info(bus, ALARMS) is None
        assert info(bus, DIGESTS) is None


# -- where an empty store begins -------------------------------------------------------------------


def test_an_empty_store_begins_at_the_time_it_is_told() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        with stream_service(server.url) as service:
            assert service.stop() == 0
        store_all(bus, pairs(range(10)))
        now_ns = time.time_ns()
        between = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 10**9))
        store_all(bus, pairs(range(10, 20)))
        with stream_service(server.url, "--start", f"{between}.{now_ns % 10**9:09}Z") as service:
            eventually(lambda: len(numbers_in(bus)) == 10, what="the digests")
            assert sorted(numbers_in(bus)) == list(range(10, 20))
            assert service.metric("alarmdigest_stream_position") == 40


def test_an_empty_store_that_begins_with_new_messages_has_them_after_a_kill_too() -> None:
    """Ready means: what is published from now on is read, whatever dies."""
    with NatsServer() as server, Bus(server.url) as bus:
        with stream_service(server.url) as service:
            assert service.stop() == 0
        store_all(bus, pairs(range(10)))
        with stream_service(server.url, "--start", "new") as service:
            service.kill()
            store_all(bus, pairs(range(10, 20)))
            service.start()
            assert last_of(bus, ALARMS) == 40
            eventually(lambda: len(numbers_in(bus)) == 10, what="the digests")
            assert sorted(numbers_in(bus)) == list(range(10, 20))
