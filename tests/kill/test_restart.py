"""What a start finds: much in the store, much in the stream, other options than before."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from model import format_time
from support.alone import Alone
from support.bus import Bus
from support.core import Core
from support.faults import event, numbers, pairs, patched, publish_surely, request
from support.feeder import Feeder
from support.judge import (
    ALARMS,
    DIGESTS,
    REJECTED,
    Stored,
    assert_exact,
    judge,
    read_stream,
    stream_size,
)
from support.nats_server import NatsServer
from support.raw import frames_of, publish_raw
from support.scale import cases
from support.service import ServiceProcess
from support.stored import stored_alarms
from support.stream_service import OPTIONS, RETENTION_NS, SKEW_NS, settle
from support.wait import eventually

from alarmdigest._ext.router import EVENT_SIDS
from alarmdigest.settings import Settings
from alarmdigest.store import Checkpoint, open_store

pytestmark = pytest.mark.slow

LARGE_BUFFERS = "max_buffered_msgs: 1000000\nmax_buffered_size: 512MB"
BEGINNING = 1_700_000_000 * 10**9


def stored_in_stream(server: NatsServer, count: int) -> None:
    eventually(
        lambda: stream_size(server.url, ALARMS) >= count, timeout=30, what=f"{count} in {ALARMS}"
    )


# -- much in the store ---------------------------------------------------------------------------


def write_store(data_dir: Path, users: int, alarms: int) -> None:
    """A store as a service would have written it: so many users with so many WARNINGs each."""
    core = Core(workers=2)
    # Not in the order of their ids.
    tails = [
        f'","AlarmID":"{alarm_name(alarm)}","Status":"WARNING",'
        f'"ChangedAt":"{format_time(BEGINNING + (alarm * 7 % alarms) * 10**9)}"}}'
        for alarm in range(alarms)
    ]
    for first in range(0, users, 1000):
        bodies = [
            f'{{"UserID":"{user_name(number)}{tail}'.encode()
            for number in range(first, min(users, first + 1000))
            for tail in tails
        ]
        frames = b"".join(
            b"MSG s %d %d\r\n%b\r\n" % (EVENT_SIDS[0], len(body), body) for body in bodies
        )
        end = 0
        while end < len(frames):
            end = core.router.scan(frames, end, len(frames), BEGINNING + 3600 * 10**9)
        core.merge()
    rows = [row for book in core.books for row in iter(book.take_rows, b"")]
    with open_store(Settings(data_dir=data_dir)) as store:
        store.commit(
            rows,
            Checkpoint(
                number=1,
                written_at_ns=time.time_ns(),
                position=None,
                arrival_ns=core.router.arrival_ns,
                outputs={},
                settings={},
                blocks=sum(book.block_count for book in core.books),
            ),
        )


def user_name(number: int) -> str:
    return f"{number:08}-4a4a-4b4b-8c8c-123456789abc"


def alarm_name(number: int) -> str:
    return f"{number:08}-5a5a-4b4b-8c8c-123456789abc"


def test_a_start_with_a_million_alarms_is_soon_ready_and_has_them_all() -> None:
    users, alarms = 40_000, 25
    with NatsServer() as server:
        service = ServiceProcess(server.url, mode="stream")
        write_store(service.data_dir, users, alarms)
        started = time.monotonic()
        with service, Bus(server.url) as bus:
            print(f"ready after {time.monotonic() - started:.2f} s")
            print(service.wait_for_log("went on from .*")[0])
            assert service.metric("alarmdigest_alarms") == users * alarms
            assert service.metric("alarmdigest_users") == users
            for number, user in enumerate([0, 12_345, users - 1]):
                publish_surely(bus, [request(user_name(user))])
                digest = bus.wait_for_digests(number + 1)[-1]
                assert digest.json["UserID"] == user_name(user)
                ids = [alarm["AlarmID"] for alarm in digest.json["ActiveAlarms"]]
                oldest_first = sorted(range(alarms), key=lambda alarm: alarm * 7 % alarms)
                assert ids == [alarm_name(alarm) for alarm in oldest_first]
            assert service.stop() == 0


# -- much in the stream --------------------------------------------------------------------------

PULLS_WAIT = """
import pathlib
from alarmdigest.pipeline.sources.pull_consumer import PullConsumerSource
turn = PullConsumerSource.request_more
def wait_and_turn(self, connection, router, *, pause):
    turn(self, connection, router, pause=pause or not pathlib.Path({gate!r}).exists())
PullConsumerSource.request_more = wait_and_turn
"""


def test_far_behind_it_is_not_ready_catches_up_and_makes_each_digest_once(tmp_path: Path) -> None:
    """Each request asks for what came since the one before; also a kill on the way doubles none."""
    count, alarms = 300_000, 29
    rounds = count // (alarms + 1)
    gate = tmp_path / "gate"
    program = patched(PULLS_WAIT.format(gate=str(gate)))
    with (
        NatsServer(jetstream_extra=LARGE_BUFFERS) as server,
        ServiceProcess(server.url, mode="stream", options=OPTIONS, program=program) as service,
    ):
        service.kill()
        messages = []
        for number in range(rounds):
            user = f"user-{number % 1000}"
            messages += [event(user, f"{number}.{alarm:02}") for alarm in range(alarms)]
            messages.append(request(user))
        publish_raw(server.url, frames_of(messages))
        stored_in_stream(server, count)

        service.start()
        status, why = service.http("/readyz")
        assert status == 503
        # The first pulls are sent before the gate holds any back.
        behind = re.search(r"catching up: (\d+) messages behind", why)
        assert behind is not None, why
        assert count // 2 < int(behind[1]) <= count
        assert service.http("/healthz")[0] == 200
        started = time.monotonic()
        gate.touch()
        eventually(
            lambda: stream_size(server.url, DIGESTS) > rounds // 3, timeout=30, what="a part"
        )
        service.kill()
        service.start()
        eventually(lambda: service.http("/readyz")[0] == 200, timeout=30, what="ready")
        eventually(
            lambda: stream_size(server.url, DIGESTS) >= rounds, timeout=30, what="all digests"
        )
        print(f"caught up with {count} messages in {time.monotonic() - started:.2f} s")
        assert service.stop() == 0
        sent = [numbers_of(digest) for digest in read_stream(server.url, DIGESTS)]
        assert len(sent) == rounds
        assert sorted(sent) == sorted(
            [f"{number}.{alarm:02}" for alarm in range(alarms)] for number in range(rounds)
        )


def numbers_of(digest: Stored) -> list[str]:
    return [part.split('"')[0] for part in digest.body.decode().split('"AlarmID":"')[1:]]


HELD_UP_ONCE = """
import time
from alarmdigest.pipeline.listener import Listener
read, held_up = Listener._read, []
def late(self, connection):
    read(self, connection)
    if self.router.events and not held_up:
        held_up.append(True)
        time.sleep(2)
Listener._read = late
"""


def test_150_messages_of_nearly_a_megabyte_neither_stall_it_nor_cut_it_off() -> None:
    """Also when the machine is busy for a moment: the server cuts off whom it owes over 64 MiB."""
    count, behind = 150, 120
    filling = b"x" * (1024 * 1024 - 300)

    def large(number: int) -> tuple[str, bytes]:
        subject, body = event("u", f"{number}")
        if number % 3 == 2:
            body = body.replace(b"CRITICAL", b"purple")
        return subject, body[:-1] + b',"Extra":"' + filling + b'"}'

    def counts(service: ServiceProcess) -> list[float]:
        names = (
            "listener_connections_lost_total",
            "stream_delivery_gaps_total",
            'reconnects_total{connection="publisher"}',
        )
        return [service.metric(f"alarmdigest_{name}") for name in names]

    with (
        NatsServer(jetstream_extra=LARGE_BUFFERS) as server,
        ServiceProcess(server.url, options=OPTIONS, program=patched(HELD_UP_ONCE)) as service,
    ):
        service.stop()
        for number in range(behind):
            publish_raw(server.url, frames_of([large(number)]))
        publish_raw(server.url, frames_of([request("u")]))
        stored_in_stream(server, behind + 1)
        service.start()
        for number in range(behind, count):  # and the rest while it runs
            publish_raw(server.url, frames_of([large(number)]))
        publish_raw(server.url, frames_of([request("u")]))
        stored_in_stream(server, count + 2)
        eventually(lambda: stream_size(server.url, DIGESTS) == 2, timeout=30, what="two digests")
        eventually(
            lambda: stream_size(server.url, REJECTED) == count // 3, timeout=30, what="refusals"
        )
        assert counts(service) == [0, 0, 0]
        assert service.http("/readyz")[0] == 200
        assert service.stop() == 0
        first, second = read_stream(server.url, DIGESTS)
        good = [f"{number}" for number in range(count) if number % 3 != 2]
        assert sorted(numbers_of(first) + numbers_of(second), key=int) == good
        for refused in read_stream(server.url, REJECTED):
            assert refused.headers["Alarmdigest-Reason"] == "status"


# -- other options, and none ---------------------------------------------------------------------


def test_another_number_of_workers_at_each_start_changes_nothing_that_anyone_can_see() -> None:
    """Beside a service that goes through without an end: the same digests with the same ids."""
    dice = random.Random(8)
    others = ["--digest-subject", "Others", "--digests-stream", "OTHERS"]
    others += ["--rejected-subject", "OthersRejected", "--rejected-stream", "OTHERS_REJECTED"]
    with (
        NatsServer() as server,
        ServiceProcess(server.url, options=[*OPTIONS, "--workers", "12"]) as service,
        ServiceProcess(server.url, options=[*OPTIONS, *others, "--workers", "5"]),
        Feeder(server.url, seed=25) as feeder,
    ):
        for number in range(cases(5, 50)):
            feeder.wait_for(dice.randrange(100, 700))
            if number % 2:
                service.kill()
            else:
                assert service.stop() == 0
            workers = [1, 7, 2, 64, 3][number % 5]
            service.change_options("--workers", f"{workers}")
            service.start()
        settle(server.url, service, feeder)

        def seen(stream: str) -> dict[str, list[tuple[str, bytes]]]:
            by_user: dict[str, list[tuple[str, bytes]]] = {}
            for one in read_stream(server.url, stream):
                user = one.body.partition(b'"ActiveAlarms"')[0].decode()
                by_user.setdefault(user, []).append((one.headers["Nats-Msg-Id"], one.body))
            return by_user

        ours = seen(DIGESTS)
        assert sum(map(len, ours.values())) > 100
        eventually(lambda: seen("OTHERS") == ours, interval=0.2, what="the same digests")


def trouble(service: ServiceProcess) -> list[str]:
    """What its log complains about, but for rejected messages."""
    return [
        line
        for line in service.log.splitlines()
        if re.search("ERROR|WARNING", line) and "rejected a message" not in line
    ]


@pytest.mark.parametrize("begin", ["first", "new"])
def test_starts_and_ends_without_messages_change_nothing(begin: str) -> None:
    """The position is that of a message read long ago, and each start believes it."""
    with NatsServer() as server, Bus(server.url) as bus:
        with ServiceProcess(server.url, mode="stream") as service:
            publish_surely(bus, pairs(range(10)))
            bus.wait_for_digests(10)
            service.stop()
        with ServiceProcess(server.url, mode="stream", options=["--start", begin]) as service:
            for _ in range(3):
                assert service.stop() == 0
                assert not trouble(service)
                service.start()
                service.wait_for_log("ALARMS: continuing after message 20\n")
            publish_surely(bus, pairs([10]))
            bus.wait_for_digests(11)
            assert sorted(numbers(bus.digests)) == list(range(11))


def test_an_orderly_end_under_traffic_and_a_start_warn_of_nothing() -> None:
    with (
        NatsServer() as server,
        ServiceProcess(server.url, options=OPTIONS) as service,
        Feeder(server.url, seed=26) as feeder,
    ):
        for _ in range(3):
            feeder.wait_for(500)
            assert service.stop() == 0
            service.start()
            eventually(lambda: service.metric("alarmdigest_checkpoints_total") > 0, what="one")
            assert not trouble(service)
        settle(server.url, service, feeder)


# -- core mode -----------------------------------------------------------------------------------


def digest_of(bus: Bus, *messages: tuple[str, bytes]) -> list[str]:
    """The alarms of the one digest that these messages bring about."""
    count = len(bus.digests)
    publish_surely(bus, messages)
    return [one["AlarmID"] for one in bus.wait_for_digests(count + 1)[-1].json["ActiveAlarms"]]


def test_core_mode_an_orderly_end_keeps_all_alarms_and_what_was_sent() -> None:
    with (
        NatsServer(jetstream=False) as server,
        ServiceProcess(server.url, options=["--checkpoint-interval", "1h"]) as service,
        Bus(server.url) as bus,
    ):
        assert digest_of(bus, event("u", "sent"), request("u")) == ["sent"]
        publish_surely(bus, [event("u", "waiting"), *(event("v", f"{n}") for n in range(1000))])
        assert service.stop() == 0
        service.start()
        assert service.metric("alarmdigest_alarms") == 1002
        assert digest_of(bus, request("u")) == ["waiting"]
        assert len(digest_of(bus, request("v"))) == 1000


def test_core_mode_a_kill_keeps_the_state_of_the_last_checkpoint() -> None:
    with (
        NatsServer(jetstream=False) as server,
        ServiceProcess(server.url, options=["--checkpoint-interval", "100ms"]) as service,
        Bus(server.url) as bus,
    ):
        assert digest_of(bus, event("u", "sent"), request("u")) == ["sent"]
        publish_surely(bus, [event("u", "waiting")])
        eventually(lambda: stored_alarms(service.data_dir) == 2, what="both in the store")
        assert service.metric("alarmdigest_checkpoints_total") > 0
        service.kill()
        service.start()
        service.wait_for_log("went on from checkpoint=.* alarms=2 .*position=none")
        assert digest_of(bus, request("u")) == ["waiting"]


def test_a_store_of_core_mode_goes_on_in_stream_mode() -> None:
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="core") as service,
        Bus(server.url) as bus,
    ):
        assert digest_of(bus, event("u", "sent"), request("u")) == ["sent"]
        publish_surely(bus, [event("u", "waiting")])
        assert service.stop() == 0
        service.change_options("--mode", "auto")
        service.start()
        service.wait_for_log("ready mode=stream")
        assert digest_of(bus, request("u")) == ["waiting"]
        assert digest_of(bus, event("u", "new"), request("u")) == ["new"]
        assert service.stop() == 0
        # There is no way back: the messages since then would be lost.
        service.change_options("--mode", "core")
        service.start(ready=False)
        assert service.wait() == 2
        assert "goes on at a place in the stream ALARMS" in service.log


def test_a_store_in_memory_forgets_and_writes_nothing() -> None:
    with (
        NatsServer(jetstream=False) as server,
        ServiceProcess(server.url, options=["--store", "memory"]) as service,
        Bus(server.url) as bus,
    ):
        assert digest_of(bus, event("u", "a"), request("u")) == ["a"]
        assert service.stop() == 0
        assert not (service.data_dir / "state").exists()
        service.start()
        assert service.metric("alarmdigest_alarms") == 0
        assert digest_of(bus, event("u", "a"), request("u")) == ["a"]


# -- as `make run` starts it ---------------------------------------------------------------------


def kill_service(service: Alone) -> None:
    service.kill()


def kill_both(service: Alone) -> None:
    service.kill()
    os.kill(service.server_pid(), signal.SIGKILL)


def kill_server_first(service: Alone) -> None:
    os.kill(service.server_pid(), signal.SIGKILL)
    service.kill()


def kill_in_between(service: Alone) -> None:
    """The service dies while it is bringing its server back."""
    os.kill(service.server_pid(), signal.SIGKILL)
    service.wait_for_log("the embedded server died: restart 1 of 3")
    service.kill()


@contextmanager
def alone() -> Iterator[Alone]:
    with Alone(
        mode="auto", options=[one for one in OPTIONS if one not in ("--mode", "stream")]
    ) as it:
        yield it


@pytest.mark.parametrize(
    "kill", [kill_service, kill_both, kill_server_first, kill_in_between], ids=lambda f: f.__name__
)
def test_with_its_own_server_it_goes_on_where_it_was(kill: Callable[[Alone], None]) -> None:
    with alone() as service, Feeder(service.url, seed=27) as feeder:
        for _ in range(3):
            feeder.wait_for(700)
            with suppress(ProcessLookupError):
                kill(service)
            service.start()
        feeder.wait_for(300)
        feeder.finish()
        expected = judge(
            read_stream(service.url, ALARMS), skew_ns=SKEW_NS, retention_ns=RETENTION_NS
        )
        assert expected.digests > 200
        eventually(
            lambda: (
                stream_size(service.url, DIGESTS) >= expected.digests
                and stream_size(service.url, REJECTED) >= expected.refusals
            ),
            timeout=30,
            interval=0.05,
            what="all that is expected",
        )
        assert_exact(
            expected, read_stream(service.url, DIGESTS), read_stream(service.url, REJECTED)
        )
        assert service.stop() == 0
        assert service.server_is_gone()
