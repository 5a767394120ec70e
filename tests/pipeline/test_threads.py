"""What the service's threads say of themselves, and their queues."""

import queue
import re
import signal
import threading
from pathlib import Path

import pytest
from support.bus import Bus
from support.faults import pairs, patched
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.runtime.service_thread import STUCK_AFTER_S, ByteQueue, ServiceThread


class Waiter(ServiceThread):
    """Does nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__("waiter", lambda *_: None)
        self.released = threading.Event()

    def work(self) -> None:
        self.released.wait()


def test_a_thread_that_does_not_beat_is_stuck_unless_it_says_what_takes_so_long() -> None:
    waiter = Waiter()
    waiter.start()
    assert not waiter.stuck
    waiter.alive_at -= STUCK_AFTER_S + 1
    assert waiter.stuck
    with waiter.busy("waiting"):
        assert not waiter.stuck
        assert waiter.busy_for_s > 0
    assert waiter.busy_for_s == 0
    assert not waiter.stuck, "it has beaten by then"
    waiter.released.set()
    waiter.join()
    assert not waiter.stuck


def test_a_checkpoint_that_takes_long_makes_it_not_ready_and_not_unhealthy(tmp_path: Path) -> None:
    gate = tmp_path / "written"
    slow = f"""
import pathlib, time
import alarmdigest.observability.health as health, alarmdigest.runtime.service_thread as threads
from alarmdigest.store.lmdb.store import LmdbStore
health.BUSY_IS_TROUBLE_S = 0.2
threads.STUCK_AFTER_S = 1.5
commit = LmdbStore.commit
def slowly(self, rows, checkpoint):
    while not pathlib.Path({str(gate)!r}).exists():
        time.sleep(0.01)
    commit(self, rows, checkpoint)
LmdbStore.commit = slowly
"""
    with (
        NatsServer() as server,
        ServiceProcess(server.url, program=patched(slow)) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all(pairs([1]))

        def waits_for(seconds: int) -> bool:
            status, text = service.http("/readyz")
            return (
                status == 503
                and f"thread checkpointer has been writing a checkpoint for {seconds} s" in text
            )

        eventually(lambda: waits_for(2), what="/readyz to say so, beyond the time for stuck")
        assert service.http("/healthz") == (200, "ok\n")
        gate.touch()
        eventually(lambda: service.http("/readyz")[0] == 200, what="ready")


MUTE = """
import ctypes
from alarmdigest.process.runner import Runner
def hang(self, service):
    mutex, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)
    while True:
        libc.pthread_mutex_lock(mutex)  # nobody unlocks it, and no signal ends the waiting
Runner._watch = hang
"""


def test_the_stacks_have_the_names_of_their_threads() -> None:
    with NatsServer() as server, ServiceProcess(server.url, options=["--workers", "4"]) as service:
        service.process.send_signal(signal.SIGUSR1)
        for name in ("MainThread", "listener", "publisher", "checkpointer", "worker-3"):
            stack = service.wait_for_log(rf"Thread {name} \(most recent call last\):\n(  .*\n)+\n")[
                0
            ]
            assert name != "worker-3" or "worker.py" in stack
        service.process.send_signal(signal.SIGUSR1)
        eventually(lambda: service.log.count("Thread worker-3 ") == 2, what="them once more")
        assert service.http("/healthz") == (200, "ok\n")
        assert service.stop() == 0


def test_no_number_of_stacks_harms_threads_that_run() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service:
        server.kill()  # now they have something to do: they connect
        written = 0

        def another() -> bool:
            return service.log.count("Thread MainThread ") > written

        for _ in range(300):
            written = service.log.count("Thread MainThread ")
            service.process.send_signal(signal.SIGUSR1)
            eventually(another, interval=0.001, what="stacks")
        assert service.stop() == 0


def test_the_stacks_are_written_also_when_the_main_thread_hangs() -> None:
    with (
        NatsServer() as server,
        ServiceProcess(server.url, program=patched(MUTE), options=["--workers", "1"]) as service,
    ):

        def hangs() -> bool:  # soon after it has said that it is ready
            service.process.send_signal(signal.SIGUSR1)
            return re.search(r'File "<string>", line \d+, in hang', service.log) is not None

        eventually(hangs, what="the stack of a main thread that hangs")
        service.wait_for_log(r"worker\.py")
        assert service.http("/healthz") == (200, "ok\n")


def test_an_abort_leaves_the_stacks_behind() -> None:
    with NatsServer() as server, ServiceProcess(server.url) as service:
        service.process.send_signal(signal.SIGABRT)
        # It reads what threads do while they do it, and may fall over it: then it has ended, too.
        assert service.wait() in (-signal.SIGABRT, -signal.SIGSEGV)
        assert re.search(r"Fatal Python error: Aborted\n\n(Current t|T)hread 0x\w+ ", service.log)


def test_an_empty_item_is_an_item() -> None:
    items: ByteQueue[bytes | None] = ByteQueue(10)
    items.put(b"")
    assert items.get_nowait() == b""
    with pytest.raises(queue.Empty):
        items.get_nowait()
