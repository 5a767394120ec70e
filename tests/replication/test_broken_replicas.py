"""Replicas that are broken on purpose: what they do wrong is found, or would be seen."""

from __future__ import annotations

import re

import pytest
from support.feeder import Feeder
from support.group_service import GroupService
from support.nats_server import NatsServer
from support.stream_service import assert_worth_judging

pytestmark = pytest.mark.group

START = "; import runpy; runpy.run_module('alarmdigest', run_name='__main__', alter_sys=True)"

FORGETS_LATER = (
    "import alarmdigest.pipeline.startup as startup, alarmdigest.pipeline.service as service; "
    "real = startup.content_of; "
    "lie = lambda settings, content: {**real(settings, content), 'retention': 300_000_000}; "
    "startup.content_of = service.content_of = lie" + START
)


def test_one_that_computes_something_else_is_found_and_kept_from_leading() -> None:
    with (
        NatsServer() as server,
        GroupService([server.url], programs={"c": ("-c", FORGETS_LATER)}) as group,
        Feeder(server.url, seed=1) as feeder,
    ):
        wrong = group.replicas[2]
        wrong.change(
            *("--group", "mail", "--replica-name", "c", "--leader-priority", "1"),
            *("--retention", "1h"),
            workers=3,
        )
        feeder.wait_for(100)
        wrong.kill()
        wrong.start()
        feeder.wait_for(1000)
        told = wrong.wait_for_log(r"diverged: up to input message (\d+) this replica has")
        assert int(told[1]) > 0
        # Right ones may be lost: the wrong one does not stand.
        group.replicas[0].kill()
        feeder.wait_for(500)
        group.replicas[0].start()
        feeder.wait_for(200)
        assert not re.search("standing for leader", wrong.log.partition("diverged")[2])
        assert_worth_judging(group.settle(feeder))
