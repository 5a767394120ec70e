"""The service among processes, limits and files that are not as one would wish."""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.bus import Bus
from support.faults import numbers, pairs, patched
from support.nats_server import NatsServer
from support.paths import ROOT
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.small_disk import MountedDisk
from support.surroundings import Surrounded
from support.wait import eventually


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as started:
        yield started


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """Another server, with a service."""
    with NatsServer() as started, ServiceProcess(started.url):
        yield started.url


def assert_works(server: NatsServer, number: int) -> None:
    with Bus(server.url) as bus:
        bus.publish_all(pairs([number]))
        assert numbers(bus.wait_for_digests(1)) == [number]


def knock(url: str, *, times: int, for_s: float) -> None:
    """Ask for a page so often at once, and wait so long for answers, or until all have hung up."""
    address = urlsplit(url)
    with ExitStack() as opened:
        waiting = []
        for _ in range(times):
            place = address.hostname, address.port or 0
            sock = socket.create_connection(place, timeout=for_s)
            waiting.append(opened.enter_context(sock))
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        deadline = time.monotonic() + for_s
        while waiting and (left_s := deadline - time.monotonic()) > 0:
            for sock in select.select(waiting, [], [], left_s)[0]:
                with suppress(OSError):
                    if sock.recv(4096):
                        continue
                waiting.remove(sock)


def last_line(service: Surrounded) -> str:
    return service.log.splitlines()[-1]


# -- what it was started with ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "shell",
    [
        "exec 0<&- 1>&- 2>&-",
        "mkdir gone; cd gone; rmdir ../gone",
        "unset HOME PATH LANG; export LC_ALL=C TMPDIR=/nowhere PYTHONUTF8=0",
        "export NOTIFY_SOCKET=/nowhere WATCHDOG_USEC=garbage WATCHDOG_PID=garbage",
        "export NOTIFY_SOCKET=@nobody WATCHDOG_USEC=9999999999999999999999999999999999999999",
        'export LARGE="$(head -c 100000 /dev/zero | tr "\\0" x)"; umask 777',
    ],
    ids=["no standard files", "no working directory", "bare", "systemd", "watchdog", "large"],
)
def test_it_works(server: NatsServer, shell: str, tmp_path: Path) -> None:
    with Surrounded(server.url, shell=f"cd {tmp_path}; {shell}") as service:
        service.wait_until_ready()
        assert_works(server, 1)
        for fd in (0, 1, 2):
            leads_to = os.readlink(f"/proc/{service.process.pid}/fd/{fd}")
            assert not leads_to.startswith("socket:"), f"{fd} would write into a connection"
        assert service.stop() == 0


@pytest.mark.parametrize("command", ["run --server nats://127.0.0.1:1", "show ada", "backup x"])
def test_a_data_directory_in_a_folder_that_is_gone_is_one_line(
    command: str, tmp_path: Path
) -> None:
    shell = f"mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} -m alarmdigest {command}"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, env=CLEAN_ENVIRONMENT
    )
    assert done.returncode == 2
    assert re.fullmatch(r"alarmdigest: --data-dir .* is gone: name a whole path\n", done.stderr)


def test_a_file_system_that_is_read_only_is_one_line(server: NatsServer, tmp_path: Path) -> None:
    if not MountedDisk.possible():
        pytest.skip("only root can mount one")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], check=True)
    try:
        options = ["--data-dir", str(tmp_path / "data")]
        with Surrounded(server.url, options=options) as service:
            assert service.wait() == 4
            assert "Read-only file system" in last_line(service)
            assert "Traceback" not in service.log
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("verify --server {url} 2>/dev/full", 0),
        ("verify --server {url} 2>&- >&- <&-", 0),
        ("verify --server {url} >/dev/full", 1),
        ("verify --no-such-option 2>/dev/full", 2),
        ("--server {url} --workers none 2>/dev/full", 2),
        ("--server {url} --workers none 2>&-", 2),
    ],
)
def test_the_exit_code_is_right_whoever_reads(served: str, shell: str, code: int) -> None:
    command = f"exec {sys.executable} -m alarmdigest {shell.format(url=served)}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=CLEAN_ENVIRONMENT
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_what_it_writes_is_for_nobody_else_whatever_the_umask(server: NatsServer) -> None:
    with Surrounded(server.url, shell="umask 000") as service:
        service.wait_until_ready()
        assert_works(server, 1)
        assert service.stop() == 0
        modes = {path: path.stat().st_mode & 0o077 for path in (service.folder / "data").rglob("*")}
        assert modes
        assert set(modes.values()) == {0}


EARLY = """
import os, signal, sys
from alarmdigest.cli.entry import main
class Early:
    def find_spec(self, name, path=None, target=None):
        if name == "alarmdigest.cli.main":
            for number in (signal.SIGHUP, {number}):
                os.kill(os.getpid(), number)
sys.meta_path.insert(0, Early())
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_there_is_a_handler_waits_for_it(
    server: NatsServer, number: signal.Signals
) -> None:
    early = ("-c", EARLY.format(number=int(number)))
    with Surrounded(server.url, program=early) as service:
        if number == signal.SIGHUP:
            service.wait_until_ready()
            eventually(lambda: "SIGHUP: settings read again" in service.log, what="its effect")
            assert service.stop() == 0
        else:
            assert service.wait() == 0
            assert "Traceback" not in service.log


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 1)])
def test_nobody_waits_for_a_silent_pipe_against_his_will(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "secret", 0o600)
    options = ["--user", "u", "--password-file", str(tmp_path / "secret")]
    with Surrounded("nats://127.0.0.1:1", options=options) as service:
        eventually(lambda: has_open(service, tmp_path / "secret"), what="it to be opened")
        service.process.send_signal(number)
        assert service.wait(8) == code
        assert "Traceback" not in service.log


def has_open(service: Surrounded, file: Path) -> bool:
    for link in Path(f"/proc/{service.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.readlink(link) == str(file):
                return True
    return False


def test_a_command_for_people_ends_at_once_by_a_signal() -> None:
    command = [sys.executable, "-m", "alarmdigest", "rejected", "--follow", "--server"]
    with NatsServer(jetstream=False) as server:
        process = subprocess.Popen([*command, server.url], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert "showing what comes from now on" in process.stderr.readline()
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
        process.stderr.close()


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kib", [300_000, 700_000], ids=lambda kib: f"{kib} KiB")
def test_too_little_memory_for_its_threads_is_one_line(server: NatsServer, kib: int) -> None:
    with Surrounded(server.url, shell=f"ulimit -v {kib}", options=["--workers", "200"]) as service:
        assert service.wait() in (1, 4)  # the store's map may be too large, too
        assert "Traceback" not in service.log
        assert re.search(
            r"^alarmdigest: (no more threads can be started|out of memory): |annot allocate memory",
            last_line(service),
        )


FEW_PROCESSES = """
import os, resource
import alarmdigest.cli.main, alarmdigest.process.reload
import alarmdigest.process.runner, alarmdigest.store.memory
import encodings.idna
resource.setrlimit(resource.RLIMIT_NPROC, ({count}, {count}))
os.setuid({nobody})  # root is not limited, and Python may lie where nobody else gets in
"""


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_processes_for_its_threads_are_one_line(server: NatsServer, count: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody who has no other processes")
    code = FEW_PROCESSES.format(count=count, nobody=65000 + count)
    options = ["--store", "memory"]
    with Surrounded(server.url, program=patched(code), options=options) as service:
        assert service.wait() == 1
        assert "Traceback" not in service.log
        assert last_line(service).startswith("alarmdigest: no more threads can be started")


@pytest.mark.parametrize("count", [8, 9, 14, 31])
def test_too_few_descriptors_at_the_start_are_one_line(server: NatsServer, count: int) -> None:
    """Not some of what it needs, and then an error that speaks of a disk or a port."""
    with Surrounded(server.url, shell=f"ulimit -n {count}") as service:
        assert service.wait() == 1
        assert "Traceback" not in service.log
        assert f"may have {count} files open, and needs at least 32" in last_line(service)


def test_a_low_limit_of_descriptors_that_may_be_raised_is_raised(server: NatsServer) -> None:
    with Surrounded(server.url, shell="ulimit -S -n 10") as service:
        service.wait_until_ready()
        assert_works(server, 1)
        assert service.stop() == 0


def test_without_descriptors_it_waits_at_rest_and_goes_on_when_there_are_some() -> None:
    with NatsServer() as server, Surrounded(server.url) as service:
        service.wait_until_ready()
        pid = service.process.pid
        server.kill()
        eventually(lambda: service.http("/readyz")[0] == 503, what="the loss")
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        server.start()
        eventually(lambda: "Too many open files" in service.log, what="the reason")
        # Somebody knocks at its door, too, whom it cannot let in.
        used, start = service.cpu_seconds(), time.monotonic()
        knock(service.url, times=3, for_s=3.0)
        busy = (service.cpu_seconds() - used) / (time.monotonic() - start)
        assert busy < 0.3, f"it uses {busy:.0%} of a core"
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        service.wait_until_ready()
        assert_works(server, 1)
        assert "Traceback" not in service.log
        assert service.stop() == 0


# -- what goes away while it runs ------------------------------------------------------------------

MODULES = """
import sys
from alarmdigest.process.runner import Runner
watch = Runner._watch
def and_tell(self, service):
    before = set(sys.modules)
    try:
        return watch(self, service)
    finally:
        print("read late:", sorted(set(sys.modules) - before), file=sys.stderr)
Runner._watch = and_tell
"""


def test_from_ready_on_it_reads_no_module_so_an_upgrade_may_replace_them() -> None:
    with (
        NatsServer() as server,
        ServiceProcess(server.url, program=patched(MODULES), mode="stream") as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all([*pairs(range(10)), ("AlarmStatusChanged", b'{"AlarmID": "\\u2028"}')])
        bus.wait_for_digests(10)
        for path in ("/", "/metrics", "/status.json", "/readyz", "/healthz", "/nothing"):
            service.http(path)
        service.process.send_signal(signal.SIGHUP)
        service.process.send_signal(signal.SIGUSR1)
        server.kill()
        eventually(lambda: service.http("/readyz")[0] == 503, what="the loss")
        server.start()
        eventually(lambda: service.http("/readyz")[0] == 200, what="the way back")
        assert service.stop() == 0
        assert "read late: []" in service.log


NO_METADATA = """
import importlib.metadata, pathlib
from_name = importlib.metadata.Distribution.from_name.__func__
def find(cls, name):
    if pathlib.Path({gone!r}).exists():
        raise importlib.metadata.PackageNotFoundError(name)
    return from_name(cls, name)
importlib.metadata.Distribution.from_name = classmethod(find)
"""


@pytest.mark.parametrize("from_the_start", [True, False])
def test_it_does_without_the_metadata_of_packages(from_the_start: bool, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    if from_the_start:
        gone.touch()
    program = patched(NO_METADATA.format(gone=str(gone)))
    with NatsServer() as server, ServiceProcess(server.url, program=program) as service:
        gone.touch()
        server.kill()
        eventually(lambda: service.http("/readyz")[0] == 503, what="the loss")
        server.start()
        eventually(lambda: service.http("/readyz")[0] == 200, what="the way back")
        assert_works(server, 1)
        assert service.stop() == 0


UNFORESEEN = """
import pathlib
from alarmdigest.nats.connection import Connection
errors = [MemoryError(), RuntimeError("nobody foresaw this"), KeyError("key")]
send = Connection._send_connect_command
left = {"alarmdigest": list(errors), "alarmdigest-publisher": list(errors)}
def fail(self):
    name = self._conn_options["name"]
    if pathlib.Path(%r).exists() and left.get(name):
        raise left[name].pop()
    send(self)
Connection._send_connect_command = fail
"""


def test_whatever_one_attempt_to_connect_raises_there_is_another(tmp_path: Path) -> None:
    now = tmp_path / "now"
    program = patched(UNFORESEEN % str(now))
    with NatsServer() as server, ServiceProcess(server.url, program=program) as service:
        now.touch()
        server.kill()
        server.start()
        service.wait_for_log("cannot connect .* reason=.*KeyError")
        eventually(lambda: service.metric("alarmdigest_ready") == 1, what="the way back")
        assert_works(server, 1)
        assert service.stop() == 0


# -- an installation that does not fit -------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What git would check out."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.c")
    shutil.copytree(ROOT / "alarmdigest", tmp_path / "alarmdigest", ignore=ignored)
    shutil.copytree(ROOT / "ext", tmp_path / "ext", ignore=ignored)
    return tmp_path


def run_in(folder: Path, url: str = "nats://127.0.0.1:1") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alarmdigest", "--server", url],
        cwd=folder,
        capture_output=True,
        text=True,
        env=CLEAN_ENVIRONMENT,
        timeout=60,
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("alarmdigest: ")
    for word in words:
        assert word in done.stderr


def test_in_a_clone_that_is_not_compiled_it_says_what_to_do(clone: Path) -> None:
    assert_one_line(run_in(clone), "not compiled", "make build", "leave that folder")


def test_a_core_for_another_python_is_named(clone: Path) -> None:
    for name in ("timestamps", "frames"):
        (clone / f"alarmdigest/_ext/{name}.cpython-27-m68k-amiga.so").touch()
    assert_one_line(run_in(clone), "another Python", "cpython-27-m68k-amiga", "make build")


def test_a_core_that_cannot_be_loaded_is_named(clone: Path) -> None:
    for source in (ROOT / "alarmdigest/_ext").glob("*.so"):
        (clone / "alarmdigest/_ext" / source.name).write_bytes(b"no library")
    assert_one_line(run_in(clone), "does not fit", "make build")


def test_a_core_that_is_older_than_its_sources_is_said_when_something_is_wrong(
    clone: Path, server: NatsServer
) -> None:
    for compiled in (ROOT / "alarmdigest/_ext").glob("*.so"):
        shutil.copy2(compiled, clone / "alarmdigest/_ext")
    source = clone / "alarmdigest/pipeline/router_factory.py"
    source.write_text(source.read_text().replace("clock_skew", "skew_of_a_newer_core"))
    (clone / "ext/wire/router.pyx").touch()
    done = run_in(clone, server.url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is older than its sources: `make build`")


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "orjson.py").write_text("raise ModuleNotFoundError('No module named orjson')\n")
    assert_one_line(run_in(tmp_path), "not complete", "orjson", "pip install")
