"""A lease on a real server: one holder at a time, and another one once he is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.jetstream import connected
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.wait import eventually

from alarmdigest.connect import lease as lease_module
from alarmdigest.connect.buckets import BucketConfig, ensure_bucket
from alarmdigest.connect.lease import Lease
from alarmdigest.connect.publishing import BatchJetStream
from alarmdigest.nats.answers import PubAck
from alarmdigest.nats.errors import ConnectionLost, NatsError

BUCKET = BucketConfig("LEASES", 0, -1)
SHORT_S = 0.4


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


class Processes:
    """Who asks for the lease, each on a connection of its own."""

    def __init__(self, server: NatsServer, stack: ExitStack) -> None:
        self._server, self._stack = server, stack
        ensure_bucket(self.connect(), BUCKET, create=True)

    def connect(self, url: str = "") -> BatchJetStream:
        connection = self._stack.enter_context(connected(url or self._server.url))
        return BatchJetStream(connection, timeout_s=1.0)

    def lease(self, name: str, duration_s: float = SHORT_S) -> Lease:
        return Lease(self.connect(), BUCKET, "deliver", name, duration_s)


class LosesPubAcks(BatchJetStream):
    """The stream has the message, and the connection is gone before it says so."""

    def __init__(self, js: BatchJetStream) -> None:
        js.drop()
        super().__init__(js._connection)

    def publish(
        self,
        subject: str,
        body: bytes,
        headers: bytes = b"",
        meant: tuple[str, str] | None = None,
    ) -> PubAck:
        super().publish(subject, body, headers, meant)
        raise ConnectionLost("cut by the test")


@pytest.fixture
def processes(server: NatsServer) -> Iterator[Processes]:
    with ExitStack() as stack:
        yield Processes(server, stack)


def test_the_first_gets_it_and_keeps_it_while_he_renews(processes: Processes) -> None:
    one, two = processes.lease("one"), processes.lease("two")
    assert one.try_acquire()
    end = time.monotonic() + 4 * SHORT_S
    while time.monotonic() < end:
        assert one.try_acquire()
        assert one.held
        assert not two.try_acquire()
        assert not two.held
    assert (one.holder, two.holder) == ("one", "one")


def test_the_second_gets_it_once_it_has_stood_unchanged_for_its_duration(
    processes: Processes,
) -> None:
    one, two = processes.lease("one"), processes.lease("two")
    assert one.try_acquire()
    assert not two.try_acquire()
    seen_at = time.monotonic()
    while not two.try_acquire():
        assert time.monotonic() - seen_at < 10 * SHORT_S
    assert time.monotonic() - seen_at >= SHORT_S
    # The first had stopped to act before, by his own clock, and finds out now.
    assert not one.held
    assert not one.try_acquire()
    assert one.holder == "two"


def test_the_holder_stops_before_another_begins_whatever_wakes_late(processes: Processes) -> None:
    one, two = processes.lease("one", 0.1), processes.lease("two", 0.1)
    for _ in range(10):
        assert eventually(one.try_acquire, interval=0.001)
        assert not two.try_acquire()
        assert eventually(two.try_acquire, interval=0.001)
        assert not one.held
        one, two = two, one


def test_who_lets_go_leaves_it_to_the_next_at_once(processes: Processes) -> None:
    one, two = processes.lease("one", 60.0), processes.lease("two", 60.0)
    assert one.try_acquire()
    assert not two.try_acquire()
    one.release()
    assert not one.held
    assert two.try_acquire()
    one.release()  # it is not his any more, and nothing happens
    assert two.try_acquire()


def test_of_many_at_once_exactly_one_gets_it(processes: Processes) -> None:
    leases = [processes.lease(f"number-{number}", 60.0) for number in range(8)]
    start = threading.Barrier(len(leases))
    got: list[bool] = []

    def run(lease: Lease) -> None:
        start.wait()
        got.append(lease.try_acquire())

    threads = [threading.Thread(target=run, args=(one,)) for one in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]


def test_a_holder_whose_pub_ack_was_lost_still_holds_it(
    server: NatsServer, processes: Processes
) -> None:
    """He cannot know, and must neither wait for himself nor believe in more than he had."""
    with Proxy(server.port) as proxy:
        one = processes.lease("one", 60.0)
        one.js = processes.connect(f"nats://127.0.0.1:{proxy.port}")
        assert one.try_acquire()
        stored = processes.connect()
        before = _last(stored)
        proxy.cut_after(0)
        with pytest.raises(NatsError):
            one.try_acquire()
        eventually(lambda: _last(stored) > before, what="the renewal in the stream")
        one.js = processes.connect()
        assert one.held
        assert one.try_acquire()
        assert one.try_acquire()


def test_who_never_heard_that_he_got_it_takes_it_without_waiting_for_himself(
    processes: Processes,
) -> None:
    one, two = processes.lease("one", 60.0), processes.lease("two", 60.0)
    one.js = LosesPubAcks(one.js)
    with pytest.raises(ConnectionLost):
        one.try_acquire()
    assert not one.held
    assert not two.try_acquire()
    one.js = processes.connect()
    assert one.try_acquire()


def test_the_lease_outlives_the_servers_restart(server: NatsServer, processes: Processes) -> None:
    one, two = processes.lease("one", 30.0), processes.lease("two", 30.0)
    assert one.try_acquire()
    server.kill()
    with pytest.raises(NatsError):
        one.try_acquire()
    assert one.held
    server.start()
    one.js, two.js = processes.connect(), processes.connect()
    assert not two.try_acquire()
    assert one.try_acquire()


def test_what_somebody_else_writes_there_is_waited_out_and_replaced(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LONGEST_S", SHORT_S)
    js = processes.connect()
    one = processes.lease("one")
    for body in (
        *(b"", b"[]", b"\xff", b'{"holder": "x"}', b'{"holder": 7, "duration_s": 1}'),
        *(b'{"holder": "x", "duration_s": "nan"}', b'{"holder": "x", "duration_s": 1e300}'),
    ):
        js.publish(BUCKET.subject("deliver"), body)
        assert not one.try_acquire()
        assert eventually(one.try_acquire)
    js.publish(BUCKET.subject("deliver"), b'{"holder": "x", "duration_s": -5}')
    assert eventually(one.try_acquire)


def test_an_entry_that_was_deleted_is_nobodys(processes: Processes) -> None:
    one, two = processes.lease("one", 30.0), processes.lease("two", 30.0)
    assert one.try_acquire()
    processes.connect().request(f"STREAM.PURGE.{BUCKET.stream}")
    assert two.try_acquire()
    assert not one.try_acquire()
    assert not one.held


def _last(js: BatchJetStream) -> int:
    info = js.stream_info(BUCKET.stream)
    assert info is not None
    return info.last_seq
