"""What a burst needs for a while is given back."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bus import Bus
from support.faults import event, pairs
from support.nats_server import NatsServer
from support.raw import frames_of, publish_raw
from support.service import ServiceProcess, memory
from support.wait import eventually

USERS, ALARMS = 12_000, 25
# LMDB alone keeps a page of 4 KiB for each block of 25, until it is told not to.
GIVEN_BACK_BYTES_PER_ALARM = 40


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_what_a_large_checkpoint_needed_is_given_back_after_it() -> None:
    burst = frames_of(
        event(f"user-{user:08d}", f"{alarm}-of-{user:016d}")
        for alarm in range(ALARMS)
        for user in range(USERS)
    )
    with (
        NatsServer(extra="max_pending: 256MB") as server,
        ServiceProcess(server.url) as service,
        Bus(server.url) as bus,
    ):
        publish_raw(server.url, burst)
        eventually(
            lambda: service.metric("alarmdigest_alarms") == USERS * ALARMS,
            timeout=30,
            what="the burst",
        )
        eventually(
            lambda: service.metric("alarmdigest_checkpoint_age_seconds") > 1.5,
            what="the last checkpoint of the burst",
        )
        assert service.metric("alarmdigest_checkpoint_bytes") > 8 * 1024 * 1024
        most = memory(service)
        bus.publish_all(pairs([1]))  # a small one behind it
        eventually(
            lambda: most - memory(service) > GIVEN_BACK_BYTES_PER_ALARM * USERS * ALARMS,
            timeout=20,
            what="less memory",
        )
        # It goes on writing afterwards.
        written = service.metric("alarmdigest_checkpoints_total")
        bus.publish_all(pairs([2]))
        eventually(lambda: service.metric("alarmdigest_checkpoints_total") > written)
        assert service.metric("alarmdigest_checkpoint_failures_total") == 0
