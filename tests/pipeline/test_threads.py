"""What the service's threads say of themselves, and their queues."""

import queue
import re
import select
import signal
import threading
import time
from pathlib import Path

import pytest
from support.bus import Bus
from support.faults import pairs, patched
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.runtime.queues import ByteQueue, SingleReaderQueue
from alarmdigest.runtime.service_thread import STUCK_AFTER_S, ServiceThread


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


def test_what_is_taken_ends_with_the_item_that_reaches_the_bytes() -> None:
    items: ByteQueue[bytes | None] = ByteQueue(100)
    for item in (b"a" * 3, None, b"b" * 3, b"c"):
        items.put(item)
    assert items.take(4) == [b"aaa", None]
    assert items.take(1) == [b"bbb"]
    assert items.take(1000) == [b"c"]
    assert (items.take(1), items.qsize()) == ([], 0)


def test_who_waits_for_room_gets_it_when_items_are_taken() -> None:
    items: ByteQueue[bytes] = ByteQueue(1)
    items.put(b"first")
    producers = [threading.Thread(target=items.put, args=(b"%d" % n,)) for n in range(3)]
    for one in producers:
        one.start()
    taken: list[bytes] = []

    def all_came() -> bool:
        taken.extend(items.take(1))
        return len(taken) == 4

    eventually(all_came, what="the items of those who waited")
    for one in producers:
        one.join(10)
    assert sorted(taken[1:]) == [b"0", b"1", b"2"]


def test_a_sleeping_reader_is_woken_once_for_each_time_it_sleeps() -> None:
    items: ByteQueue[int] = ByteQueue(0)
    waker = select.poll()
    waker.register(items.waker.fileno(), select.POLLIN)
    for round_ in range(3):
        with items.sleeping() as empty:
            assert empty
            assert not waker.poll(0), "nothing has come, and it was cleared"
            items.put(round_)
            items.put(round_)
            assert waker.poll(1000), "the first item wakes it"
        assert items.take(100) == [round_, round_]
    items.put(3)
    with items.sleeping() as empty:
        assert not empty


def test_a_reader_that_was_woken_can_wait_for_something_else() -> None:
    items: ByteQueue[int] = ByteQueue(0)
    waker = select.poll()
    waker.register(items.waker.fileno(), select.POLLIN)
    with items.sleeping():
        items.put(1)
        assert waker.poll(1000)
    items.forget_wake()
    assert not waker.poll(0)
    assert items.take(1) == [1]
    with items.sleeping() as empty:
        assert empty
        items.put(2)
        assert waker.poll(1000), "it is woken again"


def test_a_single_reader_that_waited_in_vain_is_not_woken_for_nothing() -> None:
    items: SingleReaderQueue[int] = SingleReaderQueue()
    for number in range(3):
        with pytest.raises(queue.Empty):
            items.get(timeout=0.01)
        items.put(number)
        items.put(number)
        assert [items.get(timeout=1), items.get(timeout=1)] == [number, number]


def test_a_single_reader_that_may_not_wait_does_not() -> None:
    items: SingleReaderQueue[int] = SingleReaderQueue()
    for timeout in (0, -1, -0.5):
        with pytest.raises(queue.Empty):
            items.get(timeout=timeout)
    items.put(1)
    assert items.get(timeout=-1) == 1


@pytest.mark.parametrize("timeout", [0, 0.0001, 0.001, None])
def test_a_single_reader_gets_each_item_once_from_many_producers(timeout: float | None) -> None:
    items: SingleReaderQueue[tuple[int, int]] = SingleReaderQueue()
    count, producers = 2000, 4

    def produce(who: int) -> None:
        for number in range(count):
            items.put((who, number))
            if number % 50 == 0:
                time.sleep(0.0001)  # so that the reader falls asleep, and is woken

    threads = [threading.Thread(target=produce, args=(who,)) for who in range(producers)]
    for one in threads:
        one.start()
    got: list[tuple[int, int]] = []
    until = time.monotonic() + 60
    while len(got) < count * producers:
        assert time.monotonic() < until
        try:
            got.append(items.get(timeout=timeout))
        except queue.Empty:
            continue
    for who in range(producers):
        assert [number for one, number in got if one == who] == list(range(count))
    with pytest.raises(queue.Empty):
        items.get(timeout=0.01)


def test_an_empty_item_is_an_item() -> None:
    items: ByteQueue[bytes | None] = ByteQueue(10)
    items.put(b"")
    assert items.get_nowait() == b""
    with pytest.raises(queue.Empty):
        items.get_nowait()
