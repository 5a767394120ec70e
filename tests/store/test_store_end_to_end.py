"""Trouble with the store, at the real service: a full disk, a damaged store, a slow one, one that
another service has."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.alone import Alone
from support.bus import Bus
from support.faults import event, patched, publish_surely, request
from support.feeder import Feeder
from support.judge import DIGESTS, stream_size
from support.nats_server import NatsServer
from support.raw import frames_of, publish_raw
from support.service import ServiceProcess, memory
from support.slow_disk import SlowDisk
from support.small_disk import LimitedFiles, MountedDisk, SmallDisk
from support.stored import stored_alarms
from support.stream_service import OPTIONS, settle
from support.wait import eventually

pytestmark = pytest.mark.slow

MANY_USERS = [f"{number}".ljust(200, "u") for number in range(5000)]
"""Always new ones, so that the store grows and no checkpoint fits into what the last one left."""


@pytest.fixture(params=["mounted", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> SmallDisk:
    if request.param == "mounted":
        if not MountedDisk.possible():
            pytest.skip("only root can mount a small disk")
        return MountedDisk(tmp_path)
    if sys.platform != "linux":
        pytest.skip("only Linux has prlimit")
    return LimitedFiles(tmp_path)


@contextmanager
def on_disk(disk: SmallDisk, server: NatsServer, *options: str) -> Iterator[ServiceProcess]:
    """A service in stream mode with its store on this disk, running."""
    service = ServiceProcess(
        server.url,
        options=[*OPTIONS, *disk.options, "--workers", "4", *options],
        program=disk.program,
    )
    with disk.under(service), service:
        yield service


def fill(disk: SmallDisk, service: ServiceProcess) -> None:
    """Fill the disk once there is a checkpoint, and wait until the service notices."""
    eventually(lambda: service.metric("alarmdigest_checkpoints_total") >= 1, what="a checkpoint")
    disk.fill()
    eventually(lambda: "checkpoint" in service.http("/readyz")[1], what="the trouble in /readyz")


def digests_go_on(service: ServiceProcess, feeder: Feeder) -> None:
    published = 'alarmdigest_published_total{kind="digest"}'
    before = service.metric(published)
    feeder.wait_for(1000)
    eventually(lambda: service.metric(published) > before + 100, what="more digests")


# -- a full disk ---------------------------------------------------------------------------------


def test_a_full_disk_stops_the_checkpoints_and_says_why_and_digests_go_on(disk: SmallDisk) -> None:
    with (
        NatsServer() as server,
        on_disk(disk, server) as service,
        Feeder(server.url, seed=20, users=MANY_USERS) as feeder,
    ):
        feeder.wait_for(500)
        fill(disk, service)
        written = service.metric("alarmdigest_checkpoints_total")
        status, why = service.http("/readyz")
        assert status == 503
        assert re.search(r"no checkpoint can be written: cannot write to the store in .*: ", why)
        service.wait_for_log(r"ERROR +checkpointer no checkpoint can be written.*MB are free")
        digests_go_on(service, feeder)
        assert service.http("/healthz")[0] == 200
        assert service.http("/readyz")[0] == 503
        assert service.metric("alarmdigest_checkpoints_total") == written
        assert service.metric("alarmdigest_checkpoint_failures_total") >= 1

        disk.make_room()
        eventually(
            lambda: service.metric("alarmdigest_checkpoints_total") > written + 1,
            what="checkpoints again",
        )
        eventually(lambda: service.http("/readyz")[0] == 200, what="ready again")
        service.wait_for_log("INFO +checkpointer checkpoints can be written again")
        settle(server.url, service, feeder)


def test_a_kill_while_the_disk_is_full_loses_and_doubles_nothing(disk: SmallDisk) -> None:
    with (
        NatsServer() as server,
        on_disk(disk, server) as service,
        Feeder(server.url, seed=21, users=MANY_USERS) as feeder,
    ):
        feeder.wait_for(500)
        fill(disk, service)
        digests_go_on(service, feeder)
        service.kill()
        service.start()  # also on a full disk
        assert "went on from checkpoint" in service.log
        digests_go_on(service, feeder)
        service.kill()
        disk.make_room()
        service.start()
        digests_go_on(service, feeder)
        expected = settle(server.url, service, feeder)
        assert expected.digests > 300


def test_a_drain_on_a_full_disk_ends_with_code_5_and_the_next_start_goes_on(
    disk: SmallDisk,
) -> None:
    with (
        NatsServer() as server,
        on_disk(disk, server, "--drain-timeout", "1s") as service,
        Feeder(server.url, seed=22, users=MANY_USERS) as feeder,
    ):
        feeder.wait_for(500)
        fill(disk, service)
        digests_go_on(service, feeder)
        assert service.stop() == 5
        service.wait_for_log(
            "ERROR +MainThread the drain timed out .*; what is left is read again by the "
            "next start; reasons: no checkpoint can be written: "
        )
        disk.make_room()
        service.start()
        settle(server.url, service, feeder)


# -- a store that cannot be used -----------------------------------------------------------------


@contextmanager
def stopped_with_a_store(server: NatsServer) -> Iterator[ServiceProcess]:
    """A service that has ended in order; its store holds user ``u`` with alarms never sent."""
    with ServiceProcess(server.url, mode="stream") as service:
        with Bus(server.url) as bus:
            publish_surely(bus, [event("u", f"alarm-{number}") for number in range(1000)])
            publish_surely(bus, [event("v", "one"), request("v")])
            bus.wait_for_digests(1)
        assert service.stop() == 0
        with Bus(server.url) as bus:
            publish_surely(bus, [request("u"), request("v")])
        yield service


def refuses_to_start(service: ServiceProcess, server: NatsServer, pattern: str) -> None:
    """Exit code 4 with these words, no traceback, and nothing was published."""
    before = stream_size(server.url, DIGESTS)
    service.start(ready=False)
    assert service.wait() == 4
    assert re.search(rf"ERROR +MainThread .*{pattern}", service.log), service.log
    assert "Traceback" not in service.log
    assert stream_size(server.url, DIGESTS) == before == 1


def test_a_store_that_was_cut_off_is_never_half_read() -> None:
    with NatsServer() as server, stopped_with_a_store(server) as service:
        data = service.data_dir / "state" / "data.mdb"
        whole = data.read_bytes()
        for size in (0, 100, 4096 * 2, len(whole) // 2, len(whole) - 4096 * 6):
            data.write_bytes(whole[:size])
            refuses_to_start(service, server, f"the store in {data.parent} is damaged: ")
            assert data.read_bytes() == whole[:size], "it was written to"
        data.unlink()
        refuses_to_start(service, server, f"the store in {data.parent} is damaged: ")
        data.write_bytes(whole)
        service.start()
        eventually(lambda: stream_size(server.url, DIGESTS) == 2, what="the digest of u alone")


def test_a_store_with_one_wrong_byte_in_a_row_is_never_half_read() -> None:
    with NatsServer() as server, stopped_with_a_store(server) as service:
        data = service.data_dir / "state" / "data.mdb"
        whole = data.read_bytes()
        assert b"alarm-777" in whole
        data.write_bytes(whole.replace(b"alarm-777", b"alarm-778"))
        refuses_to_start(service, server, "is damaged: .*backup")


def test_a_store_of_a_newer_version_is_left_alone() -> None:
    with NatsServer() as server, stopped_with_a_store(server) as service:
        marker = service.data_dir / "state" / "FORMAT"
        marker.write_text(marker.read_text().replace("version 1", "version 2"))
        refuses_to_start(service, server, "written by a newer alarmdigest .format 2.*start that")


def test_a_folder_that_is_not_ours_to_write_to_is_said() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service:
        service.stop()
        state = service.data_dir / "state"
        state.rename(service.data_dir / "moved")
        state.write_text("a file in its place")
        service.start(ready=False)
        assert service.wait() == 4
        assert re.search(f"ERROR +MainThread cannot open the store in {state}", service.log)


def ends_because_of(first: ServiceProcess, second: ServiceProcess) -> None:
    second.start(ready=False)
    try:
        assert second.wait() == 4
    finally:
        second.kill()  # one that goes on would outlive the test
    pattern = rf"ERROR +MainThread .*in use by another alarmdigest \(pid {first.process.pid}\)"
    assert re.search(pattern, second.log), second.log
    assert first.http("/readyz")[0] == 200


def test_a_second_service_on_the_same_data_ends_and_names_the_first() -> None:
    with NatsServer() as server, ServiceProcess(server.url, mode="stream") as first:
        options = ["--data-dir", str(first.data_dir)]
        ends_because_of(first, ServiceProcess(server.url, mode="stream", options=options))
        with Bus(server.url) as bus:
            publish_surely(bus, [event("u", "a"), request("u")])
            bus.wait_for_digests(1)
        eventually(lambda: stored_alarms(first.data_dir) == 1, what="the alarm in the store")
        first.kill()
        second = ServiceProcess(server.url, mode="stream", options=options)
        with second:
            assert "went on from checkpoint" in second.log


def test_a_second_service_with_its_own_server_ends_and_leaves_the_first_ones_server() -> None:
    with Alone(mode="auto") as first:
        pid = first.server_pid()
        # At the port of the first, where it would find a server; and at one where it would not.
        for port in (first.port, None):
            second = Alone(port, mode="auto", options=["--data-dir", str(first.data_dir)])
            ends_because_of(first, second)
        assert first.server_pid() == pid
        with Bus(first.url) as bus:
            publish_surely(bus, [event("u", "a"), request("u")])
            bus.wait_for_digests(1)
        assert first.stop() == 0


# -- a slow store --------------------------------------------------------------------------------

SLOW = """
import sys, time
from alarmdigest.pipeline.checkpointer import Checkpointer
from alarmdigest.store.lmdb.store import LmdbStore
commit, rows_taken = LmdbStore.commit, Checkpointer.rows_taken
def slowly(self, rows, checkpoint):
    print("commit begins", file=sys.stderr, flush=True)
    time.sleep({seconds})
    commit(self, rows, checkpoint)
    print("commit ends", file=sys.stderr, flush=True)
def told(self, barrier, rows, blocks):
    print("rows of barrier", barrier.number, file=sys.stderr, flush=True)
    rows_taken(self, barrier, rows, blocks)
LmdbStore.commit, Checkpointer.rows_taken = slowly, told
"""


def slow(server: NatsServer, *, seconds: float) -> ServiceProcess:
    program = patched(SLOW.format(seconds=seconds))
    return ServiceProcess(server.url, options=OPTIONS, program=program)


def test_digests_do_not_wait_for_a_slow_store() -> None:
    with (
        NatsServer() as server,
        slow(server, seconds=2.0) as service,
        Bus(server.url) as bus,
    ):
        publish_surely(bus, [event("u", "first")])
        service.wait_for_log("commit begins")
        assert "commit ends" not in service.log
        for number in range(100):
            publish_surely(bus, [event("u", f"{number}"), request("u")])
            bus.wait_for_digests(number + 1, timeout=1.5)
        assert "commit ends" not in service.log, "all of this took longer than a commit"


def test_a_slow_store_gets_one_checkpoint_at_a_time() -> None:
    with (
        NatsServer() as server,
        slow(server, seconds=0.8) as service,
        Feeder(server.url, seed=23, rate=8000, requests=0.05) as feeder,
    ):
        service.wait_for_log(r"(?s)(commit ends.*){3}")
        assert service.http("/readyz")[0] == 200
        settle(server.url, service, feeder)
        inside = re.findall(r"(?s)commit begins\n(.*?)commit ends\n", service.log)
        assert len(inside) >= 4
        assert not any("rows of barrier" in text for text in inside)


@pytest.mark.skipif(sys.platform != "linux", reason="a preloaded library")
def test_a_disk_that_does_not_answer_holds_up_neither_digests_nor_the_end(tmp_path: Path) -> None:
    disk = SlowDisk(tmp_path)
    options = [*OPTIONS, "--drain-timeout", "1s"]
    with (
        NatsServer() as server,
        ServiceProcess(server.url, options=options, environment=disk.environment) as service,
        Feeder(server.url, seed=24) as feeder,
    ):
        eventually(lambda: service.metric("alarmdigest_checkpoints_total") > 0, what="a checkpoint")
        disk.stall()
        written = service.metric("alarmdigest_checkpoints_total")
        digests_go_on(service, feeder)
        assert service.metric("alarmdigest_checkpoints_total") <= written + 1
        assert service.http("/healthz")[0] == 200
        # In the middle of a commit: whoever closed the store now would crash the process.
        assert service.stop() == 5
        disk.go_on()
        service.start()
        settle(server.url, service, feeder)


def all_changed(second: int) -> bytes:
    """Frames that change each of 20,000 alarms, about 20 MB."""
    tail = f"2021-06-07T20:40:{second:02}Z".encode()
    return frames_of(
        (subject, body.replace(b"2021-06-07T20:40:15Z", tail))
        for subject, body in (
            event(f"user-{number % 100}", f"{number}".ljust(1000, "a")) for number in range(20_000)
        )
    )


@pytest.mark.skipif(sys.platform != "linux", reason="a preloaded library, and /proc")
def test_while_the_store_stands_still_changes_do_not_pile_up_in_memory(tmp_path: Path) -> None:
    """Each round of traffic would be a checkpoint of 20 MB."""
    disk = SlowDisk(tmp_path)
    with (
        NatsServer(extra="max_pending: 512MB") as server,
        ServiceProcess(
            server.url,
            options=["--checkpoint-interval", "50ms"],
            environment=disk.environment,
        ) as service,
    ):

        def traffic(second: int) -> int:
            publish_raw(server.url, all_changed(second))
            merged = 20_000 * (second + 1)
            eventually(
                lambda: service.metric("alarmdigest_book_events_total") == merged, what="the merge"
            )
            return memory(service)

        for second in range(3):
            traffic(second)
        disk.stall()
        before = traffic(3)
        grown = [traffic(second) - before for second in range(4, 12)]
        assert service.metric("alarmdigest_alarms") == 20_000
        assert max(grown) < 80e6, grown
        disk.go_on()
        assert service.stop() == 0
        assert stored_alarms(service.data_dir) == 20_000
