"""A region is lost: the streams live on as mirrors in another one, as docs/replicas.md says."""

from __future__ import annotations

from typing import Any

import pytest
from support.feeder import Feeder
from support.group_service import LEADERS, GroupService, elections_of
from support.jetstream import asking, info_of
from support.judge import ALARMS, DIGESTS, REJECTED
from support.nats_server import NatsServer, free_port
from support.stream_service import assert_worth_judging
from support.wait import eventually

from alarmdigest.nats.jetstream import JetStream
from alarmdigest.nats.object_info import BucketConfig
from alarmdigest.nats.stream_configs import make_stream_configs
from alarmdigest.replication.snapshots import BUCKET

SNAPSHOTS = BucketConfig(BUCKET)
STREAMS = (ALARMS, DIGESTS, REJECTED, SNAPSHOTS.stream)


def promoted(name: str) -> dict[str, Any]:
    """What the stream is to be instead of a mirror."""
    if name == SNAPSHOTS.stream:
        return SNAPSHOTS.config()
    [config] = (
        one for one in make_stream_configs(leader_subject=f"{LEADERS}mail") if one.name == name
    )
    return config.api_config()


def mirror_all(js: JetStream) -> None:
    for name in STREAMS:
        source = {"name": name, "external": {"api": "$JS.east.API"}}
        js.create_stream({"name": name, "mirror": source, "storage": "file"})


def is_level(east: str, west: str) -> bool:
    """A mirror has the same numbers; what was removed from the original stays in it."""
    with asking(east) as there, asking(west) as here:
        return all(info_of(there, one).last_seq == info_of(here, one).last_seq for one in STREAMS)


@pytest.mark.group
@pytest.mark.timeout(180)
def test_a_region_is_lost() -> None:
    port = free_port()
    listen = f'leafnodes {{ host: "127.0.0.1", port: {port} }}'
    remote = f'leafnodes {{ remotes [ {{ url: "nats-leaf://127.0.0.1:{port}" }} ] }}'
    with NatsServer(extra=remote, jetstream_extra="domain: west") as west:
        lose_a_region(listen, west)
        before = len(elections_of(west.url))
        with asking(west.url) as js:
            for name in STREAMS:
                js.request(f"STREAM.UPDATE.{name}", promoted(name))
        with (
            GroupService([west.url], replicas=2) as here,
            Feeder(west.url, seed=82, rate=1000) as feeder,
        ):
            assert all("restored the state from a snapshot" in one.log for one in here.replicas)
            feeder.wait_for(2000)
            assert_worth_judging(here.settle(feeder))
        assert len(elections_of(west.url)) > before


def lose_a_region(listen: str, west: NatsServer) -> None:
    """Traffic, a group and mirrors of its streams; then everything is gone but the mirrors."""
    with (
        NatsServer(extra=listen, jetstream_extra="domain: east") as east,
        GroupService([east.url], "--snapshot-interval", "5s", replicas=2) as group,
    ):
        with Feeder(east.url, seed=81, rate=1000) as feeder:
            feeder.wait_for(1000)
            with asking(west.url) as js:
                mirror_all(js)
            feeder.wait_for(3000)
            feeder.finish()
        eventually(lambda: is_level(east.url, west.url), timeout=60, what="the mirrors")
        for replica in group.running:
            replica.kill()
