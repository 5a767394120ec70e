"""The store on disk: whose it is, how it is opened, how it grows, and who may look on."""

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest
from support.command import run_command
from support.paths import TESTS
from support.rows import checkpoint, key_of, packed, some_rows, unpacked

from alarmdigest.store import StoreDamaged, StoreError, StoreInUse, StoreTooNew
from alarmdigest.store.lmdb.folder import MARKER
from alarmdigest.store.lmdb.store import LmdbStore, open_for_reading

MIB = 1 << 20


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def fill(data_dir: Path, blocks: int = 100) -> dict[bytes, bytes]:
    rows = some_rows(blocks, 3000)
    with LmdbStore(data_dir) as store:
        store.commit([packed(rows)], checkpoint(blocks))
    return rows


def python(program: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_next_start_finds_everything(data_dir: Path) -> None:
    rows = fill(data_dir)
    with LmdbStore(data_dir) as store:
        assert store.last == checkpoint(100)
        assert dict(unpacked(store.rows())) == rows


def test_files_are_for_their_owner_only(data_dir: Path) -> None:
    fill(data_dir)
    folder = data_dir / "state"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys([MARKER, "data.mdb", "lock.mdb", "owner.lock"], 0o600)


# -- one owner


def test_a_second_owner_is_told_who_the_first_is(data_dir: Path) -> None:
    with LmdbStore(data_dir), pytest.raises(StoreInUse) as refused:
        LmdbStore(data_dir)
    assert f"(pid {os.getpid()})" in str(refused.value)
    assert str(data_dir / "state") in str(refused.value)
    LmdbStore(data_dir).close()


def test_an_owner_in_another_process_counts_until_it_dies(data_dir: Path) -> None:
    program = """
import sys; from pathlib import Path; from alarmdigest.store.lmdb.store import LmdbStore
store = LmdbStore(Path(sys.argv[1])); print("open", flush=True); sys.stdin.read()
"""
    with python(program, data_dir) as other:
        assert other.stdout
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreInUse, match=rf"\(pid {other.pid}\)"):
            LmdbStore(data_dir)
        other.kill()
        other.wait()
        LmdbStore(data_dir).close()


# -- opening


def test_a_start_that_died_before_the_first_checkpoint_is_a_new_store(data_dir: Path) -> None:
    LmdbStore(data_dir).close()
    with LmdbStore(data_dir) as store:
        assert store.last is None
        assert list(store.rows()) == []


@pytest.mark.parametrize("left", [0, 100, 8192])
def test_a_first_start_that_died_early_leaves_nothing_that_hinders(
    data_dir: Path, left: int
) -> None:
    LmdbStore(data_dir).close()
    (data_dir / "state" / MARKER).unlink()
    os.truncate(data_dir / "state" / "data.mdb", left)
    fill(data_dir)


def test_a_lost_marker_is_written_again(data_dir: Path) -> None:
    rows = fill(data_dir)
    (data_dir / "state" / MARKER).unlink()
    with LmdbStore(data_dir) as store:
        assert dict(unpacked(store.rows())) == rows
    assert (data_dir / "state" / MARKER).exists()


@pytest.mark.parametrize("lost", ["data.mdb deleted", "data.mdb empty", "data.mdb new"])
def test_a_marker_without_its_database_is_damage_not_a_new_start(data_dir: Path, lost: str) -> None:
    fill(data_dir)
    data = data_dir / "state" / "data.mdb"
    data.unlink()
    if lost == "data.mdb empty":
        data.touch()
    if lost == "data.mdb new":
        (data_dir / "state" / "lock.mdb").unlink()
        lmdb.open(str(data.parent)).close()
    with pytest.raises(StoreDamaged, match=r"state is damaged: .* backup"):
        LmdbStore(data_dir)


def test_a_database_of_another_program_is_left_alone(data_dir: Path) -> None:
    (data_dir / "state").mkdir(parents=True)
    with lmdb.open(str(data_dir / "state")) as other, other.begin(write=True) as txn:
        txn.put(b"theirs", b"1")
    before = (data_dir / "state" / "data.mdb").read_bytes()
    with pytest.raises(StoreDamaged, match="not one of alarmdigest's"):
        LmdbStore(data_dir)
    assert (data_dir / "state" / "data.mdb").read_bytes() == before


def test_a_newer_format_is_refused_unread(data_dir: Path) -> None:
    fill(data_dir)
    marker = data_dir / "state" / MARKER
    marker.write_text("alarmdigest store\nversion 2\nand what else may stand here by then\n")
    with pytest.raises(StoreTooNew, match="newer alarmdigest"):
        LmdbStore(data_dir)


@pytest.mark.parametrize("text", ["", "alarmdigest store\n", "other\nversion 1\n", "\xff\n1\n"])
def test_a_marker_that_says_something_else_is_damage(data_dir: Path, text: str) -> None:
    fill(data_dir)
    (data_dir / "state" / MARKER).write_text(text, "latin-1")
    with pytest.raises(StoreDamaged, match=MARKER):
        LmdbStore(data_dir)


def test_a_row_lost_without_trace_is_damage(data_dir: Path) -> None:
    rows = fill(data_dir)
    with lmdb.open(str(data_dir / "state")) as env, env.begin(write=True) as txn:
        txn.delete(next(iter(rows)))
    with pytest.raises(StoreDamaged, match="holds 99 rows and should hold 100"):
        LmdbStore(data_dir)


def test_a_row_with_another_value_is_damage(data_dir: Path) -> None:
    rows = fill(data_dir)
    with lmdb.open(str(data_dir / "state")) as env, env.begin(write=True) as txn:
        key = next(iter(rows))
        txn.put(key, b"?" + (txn.get(key) or b"")[1:])
    with LmdbStore(data_dir) as store, pytest.raises(StoreDamaged, match="other bytes"):
        list(store.rows())


def test_a_lost_checkpoint_record_is_damage(data_dir: Path) -> None:
    fill(data_dir)
    with lmdb.open(str(data_dir / "state")) as env, env.begin(write=True) as txn:
        txn.delete(b"\xff\xffcheckpoint")
    with pytest.raises(StoreDamaged, match="record is gone"):
        LmdbStore(data_dir)


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(StoreError, match=f"{tmp_path}/data"):
        LmdbStore(tmp_path / "data")


# -- growing


@pytest.mark.parametrize("commits", [1, 50])
def test_the_map_grows_from_one_to_fifty_mebibytes(data_dir: Path, commits: int) -> None:
    rows = some_rows(17_000, 3900)
    assert sum(map(len, rows.values())) > 47 * MIB
    pairs = list(rows.items())
    with LmdbStore(data_dir, map_size=MIB) as store:
        for number in range(commits):
            share = pairs[number::commits]
            done = sum(len(pairs[before::commits]) for before in range(number))
            store.commit([packed(share)], checkpoint(done + len(share), number + 1))
        assert dict(unpacked(store.rows())) == rows
    with LmdbStore(data_dir, map_size=MIB) as store:  # smaller than what is there
        assert dict(unpacked(store.rows())) == rows
        store.commit([], checkpoint(17_000, 99))


def test_a_map_that_was_guessed_too_small_grows_in_the_middle_of_a_commit(data_dir: Path) -> None:
    # Small values take four times their size here, with their keys, seals and the page's records.
    rows = {key_of(f"user-{number}"): b"1" for number in range(100_000)}
    with LmdbStore(data_dir, map_size=MIB) as store:
        store.commit([packed(rows)], checkpoint(100_000))
        assert dict(unpacked(store.rows())) == rows


def test_a_file_that_ends_within_its_unused_pages_is_whole(tmp_path: Path) -> None:
    """LMDB does not write pages that it took and gave up again within a commit. A death right
    behind such a commit leaves the file shorter than its number of pages says, and nothing lost.
    """
    chance = random.Random(3)
    keys = [key_of(f"user-{number}") for number in range(400)]
    held: dict[bytes, bytes] = {}
    lengths: list[bool] = []
    program = """
import sys; from pathlib import Path; from alarmdigest.store.lmdb.store import *
from support.command import run_command
from support.rows import checkpoint
blocks, number, data_dir = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
with LmdbStore(data_dir) as store:
    store.commit([sys.stdin.buffer.read()], checkpoint(blocks, number))
"""
    data = tmp_path / "state" / "data.mdb"
    for number in range(1, 40):
        some = chance.sample(keys, chance.randint(1, len(keys)))
        gone = chance.sample(keys, chance.randint(0, len(keys)))
        changes = {key: chance.randbytes(chance.choice((3, 700, 3900))) for key in some}
        changes |= dict.fromkeys(gone, b"")
        held = {key: value for key, value in {**held, **changes}.items() if value}
        died = subprocess.run(
            [sys.executable, "-c", program, str(len(held)), str(number), str(tmp_path)],
            input=packed(changes),
            env={
                **os.environ,
                "PYTHONPATH": str(TESTS),
                "ALARMDIGEST_FAILPOINT": "store.after_write",
            },
        )
        assert died.returncode == -signal.SIGKILL
        length = data.stat().st_size
        with LmdbStore(tmp_path) as store:
            assert store.last == checkpoint(len(held), number)
            assert dict(unpacked(store.rows())) == held
        lengths.append(data.stat().st_size > length)
    assert any(lengths), "no such file came up"
    assert not all(lengths)


# -- looking on


READER = """
import sys, hashlib; from pathlib import Path
from alarmdigest.store.lmdb.store import open_for_reading
with open_for_reading(Path(sys.argv[1])) as reader:
    print(reader.last.number, flush=True)
    sys.stdin.readline()
    for _ in range(2):
        print(hashlib.sha256(b"".join(reader.rows())).hexdigest(), flush=True)
"""


def test_another_process_reads_one_checkpoint_whole_while_we_write_others(data_dir: Path) -> None:
    rows = fill(data_dir)
    expected = hashlib.sha256(packed(sorted(rows.items()))).hexdigest()
    with LmdbStore(data_dir, map_size=MIB) as store, python(READER, data_dir) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == "1\n"
        for number in range(2, 12):
            new = some_rows(1000, 3000, seed=number)
            store.commit([packed(new)], checkpoint(1000, number))
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == f"{expected}\n"
        assert other.stdout.readline() == f"{expected}\n"
        assert other.wait() == 0


def test_a_reader_that_died_does_not_pin_its_snapshot_beyond_the_next_start(
    data_dir: Path,
) -> None:
    fill(data_dir)
    # Open all along, else LMDB makes a new table of readers at the next opening.
    onlooker = lmdb.open(str(data_dir / "state"), readonly=True)
    with python(READER, data_dir) as other:
        assert other.stdout
        other.stdout.readline()
        other.kill()
        other.wait()
    assert str(other.pid) in onlooker.readers()
    program = """
import sys; from pathlib import Path; from alarmdigest.store.lmdb.store import LmdbStore
LmdbStore(Path(sys.argv[1])).close()
"""
    with python(program, data_dir) as service:
        assert service.wait() == 0
    assert str(other.pid) not in onlooker.readers()
    onlooker.close()


def test_reading_makes_no_store_where_there_is_none(data_dir: Path) -> None:
    with pytest.raises(StoreError, match="no store in"):
        open_for_reading(data_dir)
    assert not data_dir.exists()


# -- root looks on

SERVICE = 61184  # a uid that is nobody's
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can read for another user")


def give_away(data_dir: Path) -> None:
    for path in (data_dir, *data_dir.rglob("*")):
        os.chown(path, SERVICE, SERVICE, follow_symlinks=False)


@only_root
@pytest.mark.parametrize("command", ["show", "backup"])
def test_root_does_not_open_the_store_of_another_user(
    data_dir: Path, tmp_path: Path, command: str
) -> None:
    """Whoever has the service's rights can put any link into its folder."""
    fill(data_dir)
    give_away(data_dir)
    lock = data_dir / "state" / "lock.mdb"
    lock.unlink()
    lock.symlink_to(tmp_path / "of root")
    result = run_command(command, str(tmp_path / "target"), "--data-dir", str(data_dir))
    assert (result.returncode, result.stdout) == (4, "")
    assert f"belongs to the user with uid {SERVICE}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "of root").exists()


@only_root
def test_root_reads_its_own(data_dir: Path) -> None:
    rows = fill(data_dir)
    with open_for_reading(data_dir) as reader:
        assert dict(unpacked(reader.rows())) == rows


# -- errors while running


def test_a_folder_that_vanished_is_not_taken_for_a_new_one(data_dir: Path) -> None:
    rows = fill(data_dir)
    with LmdbStore(data_dir) as store:
        with pytest.raises(StoreError):  # and has to open the files again
            store.commit([], checkpoint(5, 2))
        shutil.rmtree(data_dir / "state")
        (data_dir / "state").mkdir()
        with pytest.raises(StoreDamaged, match="is gone"):
            store.commit([packed(rows)], checkpoint(100, 2))


def test_no_more_file_descriptors_is_an_error_that_passes(data_dir: Path) -> None:
    """The store opens its files again after an error; that may fail, too."""
    rows = fill(data_dir)
    with LmdbStore(data_dir) as store:
        with pytest.raises(StoreError):
            store.commit([], checkpoint(5, 2))
        taken = []
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        try:
            with pytest.raises(StoreError, match="cannot write to"):
                store.commit([], checkpoint(100, 2))
        finally:
            for fd in taken:
                os.close(fd)
        store.commit([], checkpoint(100, 2))
        assert dict(unpacked(store.rows())) == rows
