"""The service as a process: how it ends, in good order or not, and what its exit code says."""

import json
import re
import signal
import time
from pathlib import Path

import pytest
from support.bus import Bus
from support.faults import (
    ChangingServer,
    assert_in_order_for_each_user,
    event,
    gated,
    numbers,
    pairs,
    patched,
    publish_surely,
    users,
)
from support.nats_server import HOST, NatsServer, free_port
from support.service import ServiceProcess, send_until_it_ends
from support.wait import eventually

HELD = users('publish: { deny: ["AlarmDigest"] }')


# -- the drain -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_that_was_published_before_it(number: signal.Signals) -> None:
    count = 15_000
    with NatsServer() as server, ServiceProcess(server.url) as service, Bus(server.url) as bus:
        publish_surely(bus, pairs(range(count)))
        service.process.send_signal(number)
        assert service.wait() == 0
        digests = bus.wait_for_digests(count)
        assert sorted(numbers(digests)) == list(range(count))
        assert_in_order_for_each_user(digests)
        assert "everything that arrived was worked off" in service.log


def test_a_drain_includes_what_the_workers_have_not_begun(tmp_path: Path) -> None:
    gate = tmp_path / "open"
    with (
        NatsServer() as server,
        ServiceProcess(server.url, program=gated(gate)) as service,
        Bus(server.url) as bus,
    ):
        publish_surely(bus, [*pairs(range(2000)), ("AlarmStatusChanged", b"broken")])
        service.terminate()
        service.wait_for_log("draining")
        gate.touch()
        assert service.wait() == 0
        assert sorted(numbers(bus.wait_for_digests(2000))) == list(range(2000))
        assert [refused.body for refused in bus.wait_for_rejected(1)] == [b"broken"]


def test_during_a_drain_it_is_not_ready_and_takes_nothing_new(tmp_path: Path) -> None:
    gate = tmp_path / "open"
    with (
        NatsServer() as server,
        ServiceProcess(server.url, program=gated(gate)) as service,
        Bus(server.url) as bus,
    ):
        publish_surely(bus, pairs([1]))
        service.terminate()
        eventually(lambda: "not subscribed" in service.http("/readyz")[1], what="unsubscribed")
        bus.publish_all(pairs([2]))
        gate.touch()
        assert service.wait() == 0
        bus.flush()
        assert numbers(bus.digests) == [1]


def test_a_drain_that_cannot_finish_ends_after_its_time_with_exit_code_5() -> None:
    with (
        ChangingServer(extra=HELD) as server,
        ServiceProcess(
            environment={"NATS_URL": server.url_of("service")}, options=["--drain-timeout", "1s"]
        ) as service,
        Bus(server.url_of("bus")) as bus,
    ):
        bus.publish_all(pairs(range(10)))
        eventually(lambda: service.http("/readyz")[0] == 503, what="held up")
        start = time.monotonic()
        assert service.stop() == 5
        assert 0.9 < time.monotonic() - start < 6
        assert "unconfirmed_bytes=" in service.log, "how much is lost is not said"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_drain_at_once_with_exit_code_5(
    second: signal.Signals, form: str
) -> None:
    with (
        ChangingServer(extra=HELD) as server,
        ServiceProcess(
            environment={"NATS_URL": server.url_of("service")}, options=["--log-format", form]
        ) as service,
        Bus(server.url_of("bus")) as bus,
    ):
        bus.publish_all(pairs(range(10)))
        eventually(lambda: service.http("/readyz")[0] == 503, what="held up")
        service.terminate()
        service.wait_for_log("draining")
        start = time.monotonic()
        send_until_it_ends(service, second)
        assert service.wait() == 5
        assert time.monotonic() - start < 3
        wanted = rf"second {second.name}: stopping at once.*; what is left is lost; reasons: .*"
        if form == "text":
            said = service.log.splitlines()[-1]
            assert re.search(rf" ERROR   signals {wanted}", said)
            assert re.search(r" unconfirmed_bytes=[1-9]", said)
        else:
            last = [json.loads(line) for line in service.log.splitlines()][-1]
            assert re.fullmatch(wanted, last["msg"])
            assert last["unconfirmed_bytes"] > 0
            assert (last["level"], last["thread"]) == ("error", "signals")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", last["ts"])


@pytest.mark.parametrize(
    "wish",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM), (signal.SIGINT,) * 5],
    ids=["timeout", "a shell", "a key held down"],
)
def test_one_wish_that_comes_twice_is_no_second_one(
    wish: tuple[signal.Signals, ...], tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    with (
        NatsServer() as server,
        ServiceProcess(server.url, program=gated(gate)) as service,
        Bus(server.url) as bus,
    ):
        publish_surely(bus, pairs(range(100)))
        for number in wish:
            service.process.send_signal(number)
            time.sleep(0.001)  # else the kernel makes one of two that are the same
        service.wait_for_log("draining")
        gate.touch()
        assert service.wait() == 0
        assert sorted(numbers(bus.wait_for_digests(100))) == list(range(100))


def test_a_signal_at_the_very_end_changes_no_exit_code() -> None:
    late = """
import atexit, os, signal
from alarmdigest.cli.main import main
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    atexit.register(os.kill, os.getpid(), number)
"""
    with NatsServer() as server, ServiceProcess(server.url, program=patched(late)) as service:
        assert service.stop() == 0


def test_signals_count_also_where_whoever_started_it_has_blocked_or_ignored_them() -> None:
    blocked = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
"""
    with NatsServer() as server, ServiceProcess(server.url, program=patched(blocked)) as service:
        service.process.send_signal(signal.SIGHUP)
        service.wait_for_log("SIGHUP: settings read again")
        service.process.send_signal(signal.SIGUSR1)
        service.wait_for_log("Thread MainThread")
        assert service.stop() == 0


def test_it_drains_without_a_server_too() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service:
        server.kill()
        eventually(lambda: service.http("/readyz")[0] == 503, what="the loss")
        assert service.stop() == 0


def test_a_signal_while_it_waits_for_a_server_ends_it() -> None:
    service = ServiceProcess(f"nats://{HOST}:{free_port()}")
    service.start(ready=False).wait_for_log("cannot connect")
    start = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - start < 5
    assert " ready " not in service.log


def test_no_server_in_time_is_exit_code_3() -> None:
    url = f"nats://{HOST}:{free_port()}"
    service = ServiceProcess(url, options=["--connect-timeout", "300ms"]).start(ready=False)
    assert service.wait() == 3
    assert f"cannot connect to NATS: {url}" in service.log


# -- a thread that dies ----------------------------------------------------------------------------

BROKEN = """
from alarmdigest.pipeline.{module} import {owner}
def broken(self, *arguments):
    if {when}:
        raise ArithmeticError("broken on purpose")
    return whole(self, *arguments)
whole = {owner}.{method}
{owner}.{method} = broken
"""


@pytest.mark.parametrize(
    ("thread", "module", "owner", "method", "when"),
    [
        (r"worker-\d+", "worker", "Worker", "_merge", "True"),
        ("listener", "listener", "Listener", "_hand_over", "self.router.events"),
        ("publisher", "publisher", "Publisher", "_send", "True"),
    ],
)
def test_a_thread_that_dies_takes_the_process_with_it(
    thread: str, module: str, owner: str, method: str, when: str
) -> None:
    program = patched(BROKEN.format(module=module, owner=owner, method=method, when=when))
    with (
        NatsServer() as server,
        ServiceProcess(server.url, program=program) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all(pairs([1]))
        assert service.wait() == 1
        service.wait_for_log(rf"CRITICAL .*thread {thread} died")
        assert "ArithmeticError: broken on purpose" in service.log


def test_a_publisher_that_dies_during_the_start_ends_it_with_its_own_reason() -> None:
    program = patched(
        BROKEN.format(module="publisher", owner="Publisher", method="_connect", when="True")
    )
    with NatsServer() as server:
        service = ServiceProcess(server.url, program=program).start(ready=False)
        assert service.wait() == 1
        service.wait_for_log("thread publisher died")
        assert "broken on purpose" in service.log.splitlines()[-1]


# -- workers that lag ------------------------------------------------------------------------------


def test_a_lagging_worker_never_stops_the_reader_and_what_is_dropped_is_counted(
    tmp_path: Path,
) -> None:
    """40 MB for a service that takes 1 MB, from a server that cuts off who leaves 4 MB unread."""
    gate, count, long = tmp_path / "open", 40_000, "x" * 900
    with (
        NatsServer(jetstream=False, extra="max_pending: 4MB") as server,
        ServiceProcess(
            server.url, program=gated(gate), options=["--backlog-limit", "1MB"]
        ) as service,
        Bus(server.url) as bus,
    ):

        def metric(name: str, kind: str) -> float:
            return service.metric(f'alarmdigest_{name}_total{{kind="{kind}"}}')

        bus.publish_all(event(f"u{number % 50}", f"{long}{number}") for number in range(count))
        bus.publish_all(pairs([1]))
        eventually(lambda: metric("dropped", "request") == 1, what="the request dropped")
        dropped = metric("dropped", "event")
        assert 0 < dropped < count
        assert 1_000_000 < service.metric("alarmdigest_backlog_bytes") < 6_000_000
        status, text = service.http("/readyz")
        assert (status, text) == (503, "workers lag behind: messages are dropped\n")
        assert service.http("/healthz") == (200, "ok\n")
        assert "workers lag behind: dropping messages" in service.log

        gate.touch()
        eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
        # Whole messages: what was not dropped was merged, every one of it.
        assert metric("dropped", "event") == dropped
        merged = service.metric("alarmdigest_book_events_total")
        assert merged == count + 1 - dropped
        bus.publish_all(pairs([2]))
        assert numbers(bus.wait_for_digests(1)) == [2]
        assert service.metric("alarmdigest_listener_connections_lost_total") == 0
        assert service.stop() == 0
