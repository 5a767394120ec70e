"""Leaders that are there and do not do their work: another one takes over, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from model import Digest
from support.core import read_digest
from support.feeder import Feeder
from support.group_service import GroupService, digests_of, let_lead
from support.judge import ALARMS, judge, read_stream
from support.nats_server import NatsServer
from support.stream_service import RETENTION_NS, SKEW_NS, assert_worth_judging
from support.wait import eventually
from support.wrong_program import forgets_batches_once_there_is

pytestmark = pytest.mark.group


@pytest.mark.parametrize(
    "failpoint",
    ["publisher.before_send:200:stall", "publisher.confirmed:200:stall", "listener.before_barrier"],
)
def test_one_that_stands_still_inside_is_replaced(failpoint: str) -> None:
    """Its group's thread goes on, so its beats still pass."""
    if failpoint.startswith("listener"):
        failpoint += ":400:stall"
    with (
        NatsServer() as server,
        GroupService([server.url], failpoints={"a": failpoint}) as group,
        Feeder(server.url, seed=31, rate=500) as feeder,
    ):
        stuck = group.replicas[0]
        let_lead(server, group, "a", stuck)
        feeder.wait_for(50)
        eventually(lambda: group.leader() is not stuck, timeout=40.0, what="another leader")
        before = len(digests_of(server.url))
        eventually(lambda: len(digests_of(server.url)) > before + 20, what="digests of it")
        assert stuck.process.poll() is None
        stuck.kill()
        feeder.wait_for(100)
        assert_worth_judging(group.settle(feeder), digests=30)


def test_one_that_computes_something_else_than_most_gives_way_to_them(tmp_path: Path) -> None:
    """What it has published until then stands there; what the others make comes, too."""
    wrong_from_now = tmp_path / "wrong"
    program = forgets_batches_once_there_is(wrong_from_now)
    with (
        NatsServer() as server,
        GroupService([server.url], programs={"a": program}) as group,
        Feeder(server.url, seed=32, rate=500) as feeder,
    ):
        wrong = group.replicas[0]
        let_lead(server, group, "a", wrong)
        feeder.wait_for(300)
        wrong_from_now.touch()
        # While it still leads it is told; else it finds that the one who leads now disagrees.
        wrong.wait_for_log("diverged: (most replicas have made|up to input message)")
        eventually(lambda: group.leader() is not wrong, what="another leader")
        assert wrong.http("/readyz")[0] == 503
        for right in group.replicas[1:]:
            assert right.http("/readyz")[0] == 200, right.http("/readyz")[1]
            assert right.metric("alarmdigest_group_diverged") == 0
        # What it has made since is nobody's business any more: it need not wait for anybody.
        assert wrong.stop() == 0
        wrong.start()
        wrong.wait_for_log("diverged before: ")
        assert wrong.http("/readyz")[0] == 503
        wrong.kill()
        feeder.wait_for(300)
        feeder.finish()
        expected = judge(
            read_stream(server.url, ALARMS), skew_ns=SKEW_NS, retention_ns=RETENTION_NS
        )
        answers = [answer for user in expected.answers.values() for answer in user]
        assert len(answers) > 100

        def missing() -> int:
            found: dict[int, list[Digest]] = {}
            for stored in digests_of(server.url):
                request = int(stored.headers["Alarmdigest-Request"].split()[0])
                found.setdefault(request, []).append(read_digest(stored.body))
            return sum(one.digest not in found.get(one.sequence, ()) for one in answers)

        eventually(lambda: missing() == 0, timeout=30.0, what="every digest that is right")
        for right in group.replicas[1:]:
            assert right.stop() == 0
