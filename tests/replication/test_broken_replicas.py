"""A replica that is broken on purpose: what it does wrong is found, and it does not lead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.feeder import Feeder
from support.group_service import GroupService, elections_of
from support.nats_server import NatsServer
from support.stream_service import assert_worth_judging, let_time_pass
from support.wait import eventually
from support.wrong_program import forgets_batches_once_there_is

pytestmark = pytest.mark.group


def test_one_that_computes_something_else_is_found_and_kept_from_leading(tmp_path: Path) -> None:
    wrong_from_now = tmp_path / "wrong"
    programs = {"c": forgets_batches_once_there_is(wrong_from_now)}
    with (
        NatsServer() as server,
        GroupService([server.url], programs=programs) as group,
        Feeder(server.url, seed=1) as feeder,
    ):
        wrong = group.replicas[2]
        feeder.wait_for(100)
        if group.leader() is wrong:
            wrong.kill()
            wrong.start()
        feeder.wait_for(300)
        wrong_from_now.touch()
        told = wrong.wait_for_log(r"diverged: up to input message (\d+) this replica has")
        assert int(told[1]) > 0
        assert wrong.http("/readyz")[0] == 503
        # Right ones may be lost: the wrong one does not stand.
        leads, leaders = group.leader() is group.replicas[0], len(elections_of(server.url))
        group.replicas[0].kill()
        if leads:
            eventually(
                lambda: len(elections_of(server.url)) > leaders, timeout=30, what="another leader"
            )
        feeder.wait_for(500)
        group.replicas[0].start()
        feeder.wait_for(200)
        assert not re.search("standing for leader", wrong.log.partition("diverged")[2])
        # Nor does it, whose list nobody confirms, take a leader for stuck that has nothing to do.
        feeder.finish()
        leaders = len(elections_of(server.url))
        let_time_pass(7.0)
        assert len(elections_of(server.url)) == leaders
        assert_worth_judging(group.settle(feeder))
