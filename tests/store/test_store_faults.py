"""The store on disk when things die: the process, the disk's room, and bytes of the file.

Everything happens in child processes: what LMDB does at its worst is a signal.
"""

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.paths import TESTS
from support.rows import checkpoint, key_of, packed, some_rows, unpacked

from alarmdigest.store.lmdb.store import LmdbStore, open_for_reading

LONG = os.environ.get("ALARMDIGEST_TEST_LONG") == "1"

KEYS = [key_of(f"user-{number}") for number in range(300)]


def changes_of(number: int) -> dict[bytes, bytes]:
    """What commit ``number`` of a writer changes; the same in every process."""
    chance = random.Random(number)
    some = chance.sample(KEYS, chance.randint(1, len(KEYS)))
    return {key: chance.randbytes(chance.choice((0, 50, 1700, 3900))) for key in some}


def state_after(number: int) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for each in range(1, number + 1):
        rows |= changes_of(each)
    return {key: value for key, value in rows.items() if value}


def commit(store: LmdbStore, number: int, held: dict[bytes, bytes]) -> dict[bytes, bytes]:
    changes = changes_of(number)
    held = {key: value for key, value in {**held, **changes}.items() if value}
    store.commit([packed(changes)], checkpoint(len(held), number))
    return held


def write_for_ever(data_dir: Path) -> None:
    """In a child: goes on after the last checkpoint, and says each number once it is safe."""
    with LmdbStore(data_dir, map_size=1 << 20) as store:
        number = store.last.number if store.last else 0
        held = dict(unpacked(store.rows()))
        while True:
            number += 1
            held = commit(store, number, held)
            print(number, flush=True)


def child(function: str, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
    call = f"import store.test_store_faults as t, sys; from pathlib import Path; t.{function}"
    return subprocess.Popen(
        [sys.executable, "-c", f"{call}(*map(Path, sys.argv[1:]))", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def last_of(data_dir: Path) -> int:
    """The number of the last checkpoint, after comparing everything with what it should hold."""
    with LmdbStore(data_dir) as store:
        number = store.last.number if store.last else 0
        assert dict(unpacked(store.rows())) == state_after(number)
    return number


# -- the process


def test_a_kill_at_any_instant_leaves_one_checkpoint_whole(tmp_path: Path) -> None:
    chance, before = random.Random(), 0
    for _ in range(100 if LONG else 12):
        with child("write_for_ever", tmp_path) as writer:
            assert writer.stdout
            said = int(writer.stdout.readline())
            with suppress(subprocess.TimeoutExpired):
                writer.wait(chance.uniform(0, 0.1))
            writer.kill()
            said = int(([str(said), *writer.stdout.read().split()])[-1])
        after = last_of(tmp_path)
        assert said <= after <= said + 1
        assert after > before
        before = after


@pytest.mark.parametrize(
    ("point", "number"), [("store.between_rows_and_position:3", 2), ("store.after_write:3", 3)]
)
def test_a_death_within_a_commit_leaves_the_one_before_or_this_one(
    tmp_path: Path, point: str, number: int
) -> None:
    with child("write_for_ever", tmp_path, ALARMDIGEST_FAILPOINT=point) as writer:
        assert writer.wait() == -signal.SIGKILL
    assert last_of(tmp_path) == number


# -- the disk's room


def outcome(store: LmdbStore, number: int, rows: dict[bytes, bytes]) -> str:
    try:
        store.commit([packed(rows)], checkpoint(len(rows), number))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def run_out_of_room(data_dir: Path) -> None:
    """In a child: three commits, the second without room for it, twice; what came of each."""
    few, many = some_rows(100, 3900), some_rows(1000, 3900)
    with LmdbStore(data_dir) as store:
        outcomes = [outcome(store, 1, few)]
        with NoMoreRoom(data_dir):
            outcomes += [outcome(store, 2, many), outcome(store, 2, many)]
            assert store.last == checkpoint(100, 1)
            whole = dict(unpacked(store.rows())) == few
        outcomes += [outcome(store, 3, many)]
        whole = whole and dict(unpacked(store.rows())) == many
    print(json.dumps([outcomes, whole]))


class NoMoreRoom:
    """A full disk where the file system is a small one of our own, else a limit on files."""

    def __init__(self, data_dir: Path) -> None:
        self.ballast = data_dir / "ballast" if os.path.ismount(data_dir) else None

    def __enter__(self) -> None:
        import resource

        if self.ballast is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
            return
        with self.ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def __exit__(self, *_: object) -> None:
        import resource

        if self.ballast is None:
            limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        else:
            self.ballast.unlink()


def room_test(data_dir: Path) -> list[str]:
    with child("run_out_of_room", data_dir) as run:
        assert run.stdout
        text = run.stdout.read()
        assert run.wait() == 0
    outcomes, whole = json.loads(text)
    assert whole
    assert outcomes[0] == outcomes[3] == "done"
    for refused in outcomes[1:3]:
        assert refused.startswith(f"StoreError: cannot write to the store in {data_dir}/state: ")
    with LmdbStore(data_dir) as store:
        assert store.last == checkpoint(1000, 3)
        assert dict(unpacked(store.rows())) == some_rows(1000, 3900)
    return list(outcomes)


def test_a_file_that_may_not_grow_is_an_error_until_it_may(tmp_path: Path) -> None:
    room_test(tmp_path)


def test_a_full_disk_is_an_error_until_there_is_room(tmp_path: Path) -> None:
    """On a file system of our own if we may mount one, else as the test before."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(tmp_path)]
    mounted = False
    with suppress(OSError):
        mounted = subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
    try:
        outcomes = room_test(tmp_path)
        if mounted:
            assert "(0.0 MB are free there)" in outcomes[1]
    finally:
        if mounted:
            subprocess.run(["umount", str(tmp_path)], check=True)


# -- bytes of the file


def try_damage(folder: Path) -> None:
    """In a child: for each damaged file of a folder what came of it, in a process of its own."""
    results: dict[str, Any] = {}
    for data in sorted(folder.glob("*.damaged")):
        state = folder / "data" / "state"
        (state / "data.mdb").write_bytes(data.read_bytes())
        (state / "lock.mdb").unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            os._exit(read_damaged(folder / "data"))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        results[data.name] = code
    print(json.dumps(results))


def read_damaged(data_dir: Path) -> int:
    """0: refused, 1 or 2: that checkpoint read back whole, 9: anything else. A commit behind it
    may succeed or fail, but not crash."""
    from alarmdigest.store import StoreError

    try:
        with suppress(StoreError), open_for_reading(data_dir) as reader:
            list(reader.rows())
        with LmdbStore(data_dir) as store:
            rows, number = dict(unpacked(store.rows())), store.last.number if store.last else 0
            if rows != state_after(number) or number not in (1, 2):
                return 9
            with suppress(StoreError):
                commit(store, 3, rows)
            return number
    except StoreError:
        return 0
    except BaseException:
        return 9


def damage_outcomes(tmp_path: Path, variants: dict[str, bytes]) -> dict[str, int]:
    for name, content in variants.items():
        (tmp_path / f"{name}.damaged").write_bytes(content)
    with child("try_damage", tmp_path) as run:
        assert run.stdout
        text = run.stdout.read()
        assert run.wait() == 0
    results: dict[str, int] = json.loads(text)
    assert len(results) == len(variants)
    return {name.removesuffix(".damaged"): code for name, code in results.items()}


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """The file of a store with two checkpoints, below ``tmp_path/data``."""
    with LmdbStore(tmp_path / "data") as store:
        commit(store, 2, commit(store, 1, {}))
    return (tmp_path / "data" / "state" / "data.mdb").read_bytes()


def test_a_file_cut_off_anywhere_is_damage_unless_only_unused_pages_are_missing(
    tmp_path: Path, content: bytes
) -> None:
    ends = [end for page in range(0, len(content), 4096) for end in (page, page + 1, page + 4095)]
    outcomes = damage_outcomes(tmp_path, {f"{end:08}": content[:end] for end in ends})
    assert {name: code for name, code in outcomes.items() if code not in (0, 2)} == {}
    whole = [int(end) for end, code in outcomes.items() if code == 2]
    assert all(end > len(content) - 5 * 4096 for end in whole), "more than a few unused pages"


def test_damaged_bytes_are_noticed_or_do_not_matter(tmp_path: Path, content: bytes) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    variants = {"none": content}
    pages = len(content) // 4096
    for number in range(2000 if LONG else 250):
        damaged = bytearray(content)
        page = chance.randrange(pages) * 4096
        match number % 5:
            case 0:  # one bit
                damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            case 1:  # in the head of a page, where structure is
                damaged[page + chance.randrange(64)] = chance.randrange(256)
            case 2:
                damaged[page : page + 4096] = bytes(4096)
            case 3:
                damaged[page : page + 4096] = chance.randbytes(4096)
            case 4:  # a page that holds another one, or one that was never written
                other = chance.randrange(pages) * 4096
                damaged[page : page + 4096] = content[other : other + 4096]
        variants[f"{number:05}"] = bytes(damaged)
    outcomes = damage_outcomes(tmp_path, variants)
    assert outcomes["none"] == 2
    assert {name: code for name, code in outcomes.items() if code not in (0, 1, 2)} == {}, seed
    assert 0 in outcomes.values()
