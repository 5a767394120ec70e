"""A setting that decides what digests hold is changed: the group stops, and starts with another."""

from __future__ import annotations

import shutil

import pytest
from support.feeder import Feeder
from support.group_service import GroupService, digests_of
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.stream_service import StreamService
from support.wait import eventually

pytestmark = pytest.mark.group

OTHER = ("--retention", "1h")


def refused(replica: ServiceProcess, why: str) -> None:
    replica.start(ready=False)
    assert replica.wait(30.0) == 2, replica.log
    assert why in replica.log


def all_read(group: GroupService) -> bool:
    reads = {one.metric("alarmdigest_stream_position") for one in group.running}
    stored = {one.metric("alarmdigest_unconfirmed_bytes") for one in group.running}
    return len(reads) == 1 and stored == {0.0}


def test_the_one_that_stopped_last_brings_it() -> None:
    with NatsServer() as server, GroupService([server.url], replicas=3) as group:
        with Feeder(server.url, seed=71, rate=500) as feeder:
            feeder.wait_for(300)
            first = next(one for one in group.replicas if one is not group.leader())
            assert first.stop() == 0
            # It knows nothing of this.
            feeder.wait_for(300)
            feeder.finish()
        eventually(lambda: all_read(group), timeout=30.0, what="everything stored")
        last = group.leader()
        [between] = [one for one in group.running if one is not last]
        assert between.stop() == 0
        for one in (first, between):
            one.change_options(*OTHER)
        refused(first, "ran with them a moment ago. To change one, stop all replicas")
        assert last.stop() == 0
        refused(first, "and this one has not: start that one first, and empty the folder")
        last.change_options(*OTHER)
        last.start()
        last.wait_for_log("the group goes by other settings from now on, behind input message")
        last.wait_for_log("leading the group")
        refused(first, "has changed its settings since this replica has stopped: empty the folder")
        last.wait_for_log("made a snapshot")
        shutil.rmtree(first.data_dir)
        first.start()
        first.wait_for_log("restored the state from a snapshot")
        before = len(digests_of(server.url))
        with Feeder(server.url, seed=72, rate=500) as feeder:
            feeder.wait_for(300)
            last.kill()
            assert group.leader() is first
            feeder.wait_for(300)
            feeder.finish()
        eventually(lambda: all_read(group), timeout=30.0, what="everything stored")
        assert len(digests_of(server.url)) > before
        ids = [one.headers["Nats-Msg-Id"] for one in digests_of(server.url)]
        assert len(set(ids)) == len(ids)
        # Once the new ones count, the old ones are the others.
        for one in (first, last):
            assert_not_diverged(one)
        last.change_options("--retention", "300ms")
        refused(last, "goes by other settings")


def assert_not_diverged(replica: StreamService) -> None:
    if replica.is_running:
        assert replica.metric("alarmdigest_group_diverged") == 0
