"""The whole service with its state in Cassandra: nothing lost and nothing twice, whatever dies."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.cassandra_node import CassandraNode
from support.command import run_command
from support.feeder import Feeder
from support.keyspaces import Keyspace, new_keyspace
from support.nats_server import NatsServer
from support.small_disk import MountedDisk
from support.stream_service import StreamService, assert_worth_judging, settle
from support.wait import eventually

from alarmdigest.runtime import exit_codes

pytestmark = pytest.mark.cassandra

STEPS = (
    "cassandra.before_claim",
    "cassandra.claimed",
    "cassandra.in_journal",
    "cassandra.journal_written",
    "cassandra.before_record",
    "cassandra.after_record",
    "cassandra.in_fold",
    "cassandra.folded",
    "checkpointer.done",
)


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def move(service: StreamService) -> None:
    """To a machine that knows nothing: its folder is gone."""
    shutil.rmtree(service.data_dir, ignore_errors=True)


def checkpoints(service: StreamService) -> float:
    return service.metric("alarmdigest_checkpoints_total")


def test_killed_again_and_again_it_goes_on_from_an_empty_folder(
    server: NatsServer, keyspace: Keyspace
) -> None:
    dice = random.Random(17)
    with (
        StreamService(server.url, *keyspace.options) as service,
        Feeder(server.url, seed=71, rate=300) as feeder,
    ):
        for _ in range(6):
            eventually(lambda: checkpoints(service) >= 2, what="checkpoints", timeout=30)
            feeder.wait_for(dice.randint(50, 200))
            service.kill()
            move(service)
            service.start()
        assert "went on from" in service.log
        assert_worth_judging(settle(server.url, service, feeder))
        assert not (service.data_dir / "state").exists()


@pytest.mark.parametrize("step", STEPS)
def test_it_dies_at_any_step_of_a_checkpoint(
    server: NatsServer, keyspace: Keyspace, step: str
) -> None:
    with (
        StreamService(server.url, *keyspace.options) as service,
        Feeder(server.url, seed=72, rate=300) as feeder,
    ):
        eventually(lambda: checkpoints(service) >= 2, what="checkpoints", timeout=30)
        service.stop()
        for times in (1, 1 if "claim" in step else 3):
            service.change(*keyspace.options, failpoint=f"{step}:{times}")
            service.start(ready=False)
            assert service.wait(60) == -9
            move(service)
        service.change(*keyspace.options)
        service.start()
        settle(server.url, service, feeder)


def test_two_of_one_keyspace(server: NatsServer, keyspace: Keyspace) -> None:
    """The later one has it; the earlier one ends, and says why."""
    with StreamService(server.url, *keyspace.options) as first:
        eventually(lambda: checkpoints(first) >= 1, what="a checkpoint", timeout=30)
        with (
            StreamService(server.url, *keyspace.options) as second,
            Feeder(server.url, seed=73, rate=100) as feeder,
        ):
            feeder.wait_for(50)
            assert first.wait(60) == exit_codes.STORE_UNUSABLE
            assert "claimed by another alarmdigest" in first.log
            assert second.is_running


def test_cassandra_is_away_for_a_while(server: NatsServer) -> None:
    """Digests go on, checkpoints wait, and it says so."""
    with (
        CassandraNode() as node,
        Feeder(server.url, seed=74, rate=200) as feeder,
    ):
        mine = new_keyspace(node)
        options = [*mine.options, "--cassandra-timeout", "1s"]
        with StreamService(server.url, *options) as service:
            eventually(lambda: checkpoints(service) >= 2, what="checkpoints", timeout=30)
            node.kill()
            eventually(
                lambda: service.http("/readyz")[0] == 503, timeout=60, what="it to be unready"
            )
            assert "checkpoint" in service.http("/readyz")[1]
            digests = service.metric('alarmdigest_published_total{kind="digest"}')
            feeder.wait_for(500)
            eventually(
                lambda: service.metric('alarmdigest_published_total{kind="digest"}') > digests + 50,
                what="digests meanwhile",
            )
            node.start()
            eventually(
                lambda: service.http("/readyz")[0] == 200, timeout=60, what="it to be ready again"
            )
            service.kill()
            move(service)
            service.start()
            settle(server.url, service, feeder)


@contextmanager
def full_disk_at_will(folder: Path) -> Iterator[Callable[[], None]]:
    """A small disk of its own for this folder; called, it is full, until the end of the block."""
    folder.mkdir(parents=True)
    options = "size=96m,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:

        def fill() -> None:
            page = bytes(1 << 20)
            with (folder / "filler").open("ab", buffering=0) as filler, suppress(OSError):
                while filler.write(page):
                    pass

        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.timeout(240)
def test_the_disk_of_cassandra_is_full(server: NatsServer) -> None:
    """It stops answering; digests go on. With room again, and started again, so does everything."""
    if not MountedDisk.possible():
        pytest.skip("only root can mount a small disk")
    # Segments of a megabyte, so that it soon needs a new one.
    node = CassandraNode(settings={"commitlog_segment_size": "1MiB"})
    with full_disk_at_will(node.commit_log) as fill, node:
        mine = new_keyspace(node)
        options = [*mine.options, "--cassandra-timeout", "1s"]
        with (
            StreamService(server.url, *options) as service,
            Feeder(server.url, seed=78, rate=300) as feeder,
        ):
            eventually(lambda: checkpoints(service) >= 2, what="checkpoints", timeout=30)
            fill()
            eventually(
                lambda: service.metric("alarmdigest_checkpoint_failures_total") > 0,
                timeout=90,
                what="a checkpoint that fails",
            )
            digests = service.metric('alarmdigest_published_total{kind="digest"}')
            eventually(
                lambda: service.metric('alarmdigest_published_total{kind="digest"}') > digests + 50,
                what="digests meanwhile",
            )
            assert "checkpoint" in service.http("/readyz")[1]
            node.kill()
            (node.commit_log / "filler").unlink()
            node.start()
            eventually(
                lambda: service.http("/readyz")[0] == 200, timeout=60, what="it to be ready again"
            )
            settle(server.url, service, feeder)


def test_cassandra_stands_still_now_and_then(
    server: NatsServer, cassandra_node: CassandraNode, keyspace: Keyspace
) -> None:
    """Requests wait in its sockets, and are worked off after they were sent again."""
    options = [*keyspace.options, "--cassandra-timeout", "500ms"]
    dice = random.Random(18)
    with (
        StreamService(server.url, *options) as service,
        Feeder(server.url, seed=75, rate=200) as feeder,
    ):
        for _ in range(8):
            written = checkpoints(service)
            eventually(lambda: checkpoints(service) > written, timeout=60, what="a checkpoint")  # noqa: B023
            cassandra_node.stop_for_a_while()
            going_on = threading.Timer(dice.uniform(0.2, 2.5), cassandra_node.go_on)
            going_on.start()
            if dice.random() < 0.5:
                service.kill()
                going_on.join()
                move(service)
                service.start()
            going_on.join()
        settle(server.url, service, feeder, timeout=60)


def test_a_stop_while_cassandra_stands_still(
    server: NatsServer, cassandra_node: CassandraNode, keyspace: Keyspace
) -> None:
    """It takes as long as it may, and no longer, whatever threads still wait for an answer."""
    options = [*keyspace.options, "--cassandra-timeout", "2s", "--drain-timeout", "3s"]
    with (
        StreamService(server.url, *options) as service,
        Feeder(server.url, seed=77, rate=200) as feeder,
    ):
        eventually(lambda: checkpoints(service) >= 2, what="checkpoints", timeout=30)
        cassandra_node.stop_for_a_while()
        try:
            eventually(
                lambda: "checkpoints wait: no answer in time" in service.http("/readyz")[1],
                what="it to say so",
            )
            service.process.send_signal(signal.SIGTERM)
            assert service.wait(3 + 5) == exit_codes.DRAIN_TIMED_OUT
        finally:
            cassandra_node.go_on()
        assert "Traceback" not in service.log
        service.start()
        settle(server.url, service, feeder)


def test_show_backup_and_copy_between_stores(
    server: NatsServer, keyspace: Keyspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("copies")
    with (
        StreamService(server.url, *keyspace.options) as service,
        # A user who has just been forgotten would have no alarms.
        Feeder(server.url, seed=76, rate=300, forgets=0) as feeder,
    ):
        feeder.wait_for(400)
        written = checkpoints(service)
        eventually(lambda: checkpoints(service) > written + 1, what="a checkpoint", timeout=30)
        # While the service writes.
        shown = run_command("show", "u", "--json", *keyspace.options)
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["alarms"]
        copied = run_command("backup", str(folder / "backup"), "--json", *keyspace.options)
        assert copied.returncode == 0, copied.stderr
        assert json.loads(copied.stdout)["rows"] > 0
        feeder.finish()
        assert service.stop() == 0
        options = [*keyspace.options[1:], "--data-dir", str(service.data_dir)]
        there = run_command("copy-store", "--from", "cassandra", "--to", "lmdb", "--json", *options)
        assert there.returncode == 0, there.stderr
        again = run_command("copy-store", "--from", "cassandra", "--to", "lmdb", *options)
        assert again.returncode == exit_codes.STORE_UNUSABLE
        assert "there is a state already" in again.stderr
        # It goes on from the copy, as if nothing had happened.
        service.change("--store", "lmdb")
        service.start()
        assert f"checkpoint={json.loads(there.stdout)['checkpoint']}" in service.log
        settle(server.url, service, feeder)
