"""A lost store: everything in the input stream is read again, and no digest is published twice.

What the digest stream holds is read as the replay goes: memory must not depend on how much that is.
The long form reads five million digests back, and prints the memory that it took.
"""

from __future__ import annotations

import shutil

import pytest
from nats.js.api import StreamConfig
from support.bus import Bus
from support.nats_server import NatsServer
from support.raw import frames_of, publish_raw
from support.scale import LONG, cases
from support.service import ServiceProcess, memory
from support.streams import ALARMS, DIGESTS, INPUTS, js, last_of, stream_service
from support.wait import eventually

COUNT = cases(30_000, 5_000_000)
CHUNK = 10_000
# What 5 million ids would take in memory, at 16 bytes each and nothing besides.
MOST_BYTES = 80 * 1024 * 1024
FOUND_AGAIN = "alarmdigest_replay_suppressed_total"


def pairs(numbers: range) -> bytes:
    """For each number an event and a request; of each user the status changes every time."""
    messages = []
    for number in numbers:
        user, turn = number % 2000, number // 2000
        status = b"CRITICAL" if turn % 2 else b"WARNING"
        stamp = b"2026-01-01T00:%02d:%02dZ" % (turn // 60 % 60, turn % 60)
        body = b'{"AlarmID":"a","UserID":"user-%d","Status":"%b","ChangedAt":"%b"}'
        messages.append(("AlarmStatusChanged", body % (user, status, stamp)))
        messages.append(("SendAlarmDigest", b'{"UserID":"user-%d"}' % user))
    return frames_of(messages)


def fill(bus: Bus, url: str) -> None:
    """Publish them all, no faster than the stream takes them."""
    for start in range(0, COUNT, CHUNK):
        publish_raw(url, pairs(range(start, start + CHUNK)))
        wanted = 2 * (start + CHUNK)
        eventually(lambda: last_of(bus, ALARMS) == wanted, timeout=60, what="all stored")  # noqa: B023


def wait_for_digests(bus: Bus, service: ServiceProcess) -> None:
    eventually(
        lambda: last_of(bus, DIGESTS) == COUNT, timeout=600, interval=0.1, what="the digests"
    )
    eventually(lambda: service.metric("alarmdigest_unconfirmed_bytes") == 0, what="confirmations")


@pytest.mark.parametrize("deleted", [0, COUNT // 3], ids=["all there", "a third expired"])
def test_a_lost_store_doubles_nothing_and_memory_stays_small(
    deleted: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the digest stream keeps less than the input: what it has deleted was stored."""
    with NatsServer() as server, Bus(server.url) as bus:
        # So short that only the look at the stream keeps the digests single.
        digests = StreamConfig(name=DIGESTS, subjects=["AlarmDigest"], duplicate_window=0.1)
        for config in (digests, StreamConfig(name=ALARMS, subjects=INPUTS)):
            bus.run(js(bus).add_stream(config))
        with stream_service(server.url) as service:
            fill(bus, server.url)
            wait_for_digests(bus, service)
            service.kill()
            if deleted:
                bus.run(js(bus).purge_stream(DIGESTS, seq=deleted + 1))
            shutil.rmtree(service.data_dir)
            service.start(ready=False)
            most = 0

            def recovered() -> bool:
                nonlocal most
                if service.process.poll() is not None:
                    raise AssertionError(service.log)
                if service.http("/readyz")[0] != 200:
                    return False
                most = max(most, memory(service))
                read = service.metric("alarmdigest_stream_position") == 2 * COUNT
                return read and service.metric(FOUND_AGAIN) == COUNT

            service.wait_for_log("http listening", timeout=30)
            eventually(recovered, timeout=600, interval=0.05, what="all to be read again")
            assert last_of(bus, DIGESTS) == COUNT
            assert most < MOST_BYTES
            if LONG:
                with capsys.disabled():
                    print(f"\n{COUNT} digests read back: at most {most / 2**20:.0f} MiB")
            # It goes on as before.
            publish_raw(server.url, pairs(range(COUNT, COUNT + 10)))
            eventually(lambda: last_of(bus, DIGESTS) == COUNT + 10, what="new digests")


def test_the_confirmation_of_a_lone_digest_does_not_lie_unread() -> None:
    """It used to, until the publisher looked up from its queue, for up to 200 ms."""
    with NatsServer() as server, Bus(server.url) as bus, stream_service(server.url) as service:
        for number in range(20):
            publish_raw(server.url, pairs(range(number, number + 1)))
            eventually(lambda: last_of(bus, DIGESTS) == number + 1, what="the digest")  # noqa: B023
            eventually(lambda: service.metric("alarmdigest_unconfirmed_bytes") == 0)
        stage = 'alarmdigest_stage_seconds_{}{{stage="confirm"}}'
        assert service.metric(stage.format("count")) == 20
        assert service.metric(stage.format("sum")) < 20 * 0.03
