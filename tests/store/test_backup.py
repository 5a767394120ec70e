"""A store put back from a backup, as docs/operating.md tells: the service goes on from it, and the
output streams hold each digest once, judged by the model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.faults import patched
from support.feeder import Feeder
from support.nats_server import NatsServer
from support.rows import checkpoint, packed, some_rows
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.stored import stored_alarms, stored_rows
from support.stream_service import StreamService, assert_worth_judging, settle
from support.wait import eventually

from alarmdigest._ext import timestamps
from alarmdigest.store import StoreError
from alarmdigest.store.backup import back_up
from alarmdigest.store.lmdb.store import LmdbReader, LmdbStore

NO_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
"""


def run_backup(data_dir: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alarmdigest", "backup", target, "--data-dir", data_dir, *options],
        capture_output=True,
        text=True,
        env=CLEAN_ENVIRONMENT,
    )


def put_back(service: ServiceProcess, backup: Path) -> None:
    shutil.rmtree(service.data_dir / "state")
    shutil.copytree(backup / "state", service.data_dir / "state")


def test_a_backup_of_a_running_service_is_one_to_go_on_from(tmp_path: Path) -> None:
    with (
        NatsServer() as server,
        StreamService(server.url) as service,
        Feeder(server.url, seed=71) as feeder,
    ):
        feeder.wait_for(1000)
        eventually(lambda: stored_rows(service.data_dir) > 0, what="a checkpoint")
        done = run_backup(service.data_dir, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("copied and read: checkpoint=")
        feeder.wait_for(2000)  # what the backup does not know
        service.kill()
        put_back(service, tmp_path)
        service.start()
        eventually(
            lambda: service.metric("alarmdigest_replay_suppressed_total") > 0,
            what="what the backup does not know to be read again",
        )
        feeder.wait_for(500)
        assert_worth_judging(settle(server.url, service, feeder))


def test_a_copy_of_a_stopped_service_is_one_to_go_on_from(tmp_path: Path) -> None:
    with (
        NatsServer() as server,
        StreamService(server.url) as service,
        Feeder(server.url, seed=72) as feeder,
    ):
        feeder.wait_for(1000)
        assert service.stop() == 0
        shutil.copytree(service.data_dir / "state", tmp_path / "state")
        service.start()
        feeder.wait_for(1000)
        service.kill()
        put_back(service, tmp_path)
        service.start()
        feeder.wait_for(500)
        assert_worth_judging(settle(server.url, service, feeder))


def test_a_backup_is_for_its_owner_only_and_holds_all_that_the_store_does(tmp_path: Path) -> None:
    with NatsServer() as server, StreamService(server.url) as service:
        with Feeder(server.url, seed=73) as feeder:
            feeder.wait_for(500)
            feeder.finish()
        assert service.stop() == 0
        assert run_backup(service.data_dir, tmp_path).returncode == 0
        assert stored_alarms(tmp_path) == stored_alarms(service.data_dir) > 0
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    for file in (tmp_path / "state").iterdir():
        assert os.stat(file).st_mode & 0o077 == 0, file


def test_a_backup_tells_programs_what_it_holds(tmp_path: Path) -> None:
    with NatsServer() as server, StreamService(server.url) as service:
        with Feeder(server.url, seed=75) as feeder:
            feeder.wait_for(500)
            feeder.finish()
        assert service.stop() == 0
        done = run_backup(service.data_dir, tmp_path, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        told = json.loads(done.stdout)
        with LmdbReader(service.data_dir) as reader:
            last = reader.last
        assert last is not None
        assert last.position is not None
        assert told == {
            "state": str(tmp_path / "state"),
            "checkpoint": last.number,
            "written_at": timestamps.to_text(last.written_at_ns),
            "rows": last.blocks,
            "position": last.position.sequence,
        }


def test_there_is_nothing_to_back_up_of_a_store_in_memory(tmp_path: Path) -> None:
    done = run_backup(tmp_path, tmp_path / "target", "--store", "memory")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--store memory: nobody but the service itself can read that" in done.stderr
    assert not (tmp_path / "target").exists()


def test_a_copy_that_is_not_as_it_was_written_is_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that lies, played by a byte that changes behind the copying."""
    copy_to = LmdbReader.copy_to

    def copy_badly(reader: LmdbReader, folder: Path) -> None:
        copy_to(reader, folder)
        data = folder / "data.mdb"
        whole = data.read_bytes()
        assert b"find-me" in whole
        data.write_bytes(whole.replace(b"find-me", b"fond-me"))

    monkeypatch.setattr(LmdbReader, "copy_to", copy_badly)
    with NatsServer() as server, StreamService(server.url) as service:
        with Feeder(server.url, seed=74, users=["find-me"]) as feeder:
            feeder.wait_for(100)
            feeder.finish()
        assert service.stop() == 0
        with pytest.raises(StoreError, match="its copy cannot be read and is removed"):
            back_up(service.data_dir, tmp_path)
        assert not (tmp_path / "state").exists()


def entries(folder: Path) -> dict[Path, tuple[int, int, int]]:
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (seen.st_ino, seen.st_mode, seen.st_mtime_ns) for path, seen in found.items()}


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_what_is_there_already_is_left_alone(tmp_path: Path, kind: str) -> None:
    LmdbStore(tmp_path / "data").close()
    there = tmp_path / "target" / "state"
    there.parent.mkdir()
    if kind == "file":
        there.write_text("precious")
    elif kind == "dangling link":
        there.symlink_to(tmp_path / "nowhere")
    else:
        there.mkdir(mode=0o755)
    if kind == "folder":
        (there / "precious.txt").write_text("precious")
    before = entries(there.parent)
    done = run_backup(tmp_path / "data", there.parent)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"{there} is there already: choose another target" in done.stderr
    assert entries(there.parent) == before


def test_a_backup_that_finds_no_room_takes_away_only_what_it_has_made(tmp_path: Path) -> None:
    rows = some_rows(1000, 3000)
    with LmdbStore(tmp_path / "data") as store:
        store.commit([packed(rows)], checkpoint(1000))
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious.txt").write_text("precious")
    done = subprocess.run(
        [sys.executable, *patched(NO_ROOM), "backup", target, "--data-dir", tmp_path / "data"],
        capture_output=True,
        text=True,
        env=CLEAN_ENVIRONMENT,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert f"cannot write to the store in {target / 'state'}: " in done.stderr
    assert [path.name for path in target.iterdir()] == ["precious.txt"]


def test_a_backup_does_not_write_over_another_and_needs_a_store(tmp_path: Path) -> None:
    with NatsServer() as server, StreamService(server.url) as service:
        assert service.stop() == 0
        assert run_backup(service.data_dir, tmp_path).returncode == 0
        again = run_backup(service.data_dir, tmp_path)
    assert again.returncode == 4
    assert "already: choose another target" in again.stderr
    assert again.stdout == ""
    nothing = run_backup(tmp_path / "elsewhere", tmp_path / "target")
    assert nothing.returncode == 4
    assert "there is no store in" in nothing.stderr
    assert not (tmp_path / "target").exists()
