"""Owners without end: processes that claim, commit, stand still and are killed at any moment, also
between any two steps, while nodes stand still. Every commit that was acknowledged must be there for
whoever comes later, with all its rows and none of any other.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
from store.cassandra.scenarios import STEPS
from support.cassandra_node import CassandraNode
from support.keyspaces import Keyspace, new_keyspace, partitions_of, record_of
from support.paths import ROOT
from support.scale import cases
from support.service import CLEAN_ENVIRONMENT

from alarmdigest.store.cassandra.record import Head

SECONDS = cases(25, 1200)
OWNERS_AT_ONCE = 4


@dataclass
class Judge:
    """What the owners have told so far. ``acked`` are commits, in the order of their news."""

    acked: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hear(self, told: dict[str, object], acked_before: list[str]) -> None:
        with self.lock:
            [(what, value)] = told.items()
            self.counts[what] = self.counts.get(what, 0) + 1
            if what == "acked":
                self.acked.append(str(value))
            elif what == "violation":
                self.violations.append(str(value))
            elif what == "loaded":
                assert isinstance(value, list)
                there = set(value)
                if missing := [tag for tag in acked_before if tag not in there]:
                    self.violations.append(
                        f"{len(missing)} acknowledged commits are not there: {missing[:3]}"
                    )


class OwnerProcess:
    def __init__(self, keyspace: Keyspace, judge: Judge, seed: str, failpoint: str) -> None:
        with judge.lock:
            self._acked_before = list(judge.acked)
        hosts = ",".join(f"{host}:{port}" for host, port in keyspace.target.hosts)
        environment = CLEAN_ENVIRONMENT | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"}
        if failpoint:
            environment["ALARMDIGEST_FAILPOINT"] = failpoint
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "tests/store/cassandra/chaos_owner.py")),
                *(hosts, keyspace.target.keyspace, seed, str(keyspace.target.timeout_s)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._judge = judge
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with self.process.stdout:
            for line in self.process.stdout:
                with suppress(json.JSONDecodeError):  # killed in the middle of it
                    self._judge.hear(json.loads(line), self._acked_before)
        said = self.process.stderr.read()
        self.process.stderr.close()
        if self.process.wait() not in (0, -signal.SIGKILL):
            self._judge.hear({"violation": f"an owner has died of it: {said}"}, [])

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.reader.join(10)


def run_chaos(
    keyspace: Keyspace,
    nodes: list[CassandraNode],
    seconds: float,
    seed: int,
    *,
    kills_nodes: bool = False,
) -> Judge:
    """A node rests for a moment now and then; with ``kills_nodes`` it is killed instead, the first
    time and then half the times, and started again."""
    judge, dice = Judge(), random.Random(seed)
    owners: list[OwnerProcess] = []
    resting = threading.Lock()  # one node at a time
    later: list[threading.Timer] = []

    def after(pause: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(pause, action)
        later.append(timer)
        timer.start()

    def rest(node: CassandraNode) -> None:
        if not resting.acquire(blocking=False):
            return
        killed = kills_nodes and ("killed" not in judge.counts or dice.random() < 0.5)
        if killed:
            node.kill()
        else:
            node.stop_for_a_while()
        what = "killed" if killed else "stood still"
        judge.counts[what] = judge.counts.get(what, 0) + 1

        def go_on() -> None:
            if killed:
                node.start()
            else:
                node.go_on()
            resting.release()

        after(dice.uniform(0.1, 2.0), go_on)

    deadline, number = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < deadline:
            owners = [one for one in owners if one.process.poll() is None]
            action = dice.random()
            if len(owners) < OWNERS_AT_ONCE and (not owners or action < 0.3):
                number += 1
                point = f"{dice.choice(STEPS)}:{dice.randint(1, 6)}"
                failpoint = point + dice.choice(("", ":stall")) if dice.random() < 0.5 else ""
                owners.append(OwnerProcess(keyspace, judge, f"{seed}-{number}", failpoint))
            elif action < 0.5 and owners:
                dice.choice(owners).signal(signal.SIGKILL)
            elif action < 0.75 and owners:
                one = dice.choice(owners)
                one.signal(signal.SIGSTOP)
                after(dice.uniform(0.1, 3.0), lambda one=one: one.signal(signal.SIGCONT))  # type: ignore[misc]
            elif action < 0.85:
                rest(dice.choice(nodes))
            time.sleep(dice.uniform(0.1, 1.5))
    finally:
        for timer in later:
            timer.join()
        for one in owners:
            one.end()
    # One more, whom nobody disturbs.
    last = OwnerProcess(keyspace, judge, f"{seed}-last", "")
    wanted = judge.counts.get("acked", 0) + 5
    # From here on: a node that was killed takes as long to start as a busy machine lets it.
    deadline = time.monotonic() + 180
    while judge.counts.get("acked", 0) < wanted and last.process.poll() is None:
        assert time.monotonic() < deadline, f"the last owner cannot commit: {judge.counts}"
        time.sleep(0.1)
    last.end()
    return judge


@pytest.mark.cassandra
@pytest.mark.timeout(1800)
def test_owners_that_come_and_go(
    cassandra_node: CassandraNode, keyspace: Keyspace, tell: Callable[[str], None]
) -> None:
    shorter = Keyspace(replace(keyspace.target, timeout_s=0.7))
    judge = run_chaos(shorter, [cassandra_node], SECONDS, seed=21)
    tell(f"Cassandra, chaos of {SECONDS} s: {judge.counts}")
    assert judge.violations == []
    assert judge.counts["loaded"] >= SECONDS // 8
    assert judge.counts["acked"] >= SECONDS // 3
    # No journal is left over that nobody knows of: of earlier owners, all are deleted or listed.
    head = Head.from_bytes(record_of(keyspace).head, "the keyspace")
    listed = {(one.owner_id.bytes, one.number) for one in (*head.folded, *head.journals)}
    owner = record_of(keyspace).owner.bytes
    left = {(p[1:17], int.from_bytes(p[17:25], "big")) for p in partitions_of(keyspace, b"J")}
    assert {one for one in left - listed if one[0] != owner} == set()


@pytest.mark.cassandra
@pytest.mark.timeout(1800)
def test_owners_that_come_and_go_on_three_nodes(tell: Callable[[str], None]) -> None:
    """Each row on all three; one node after the other stands still, or is killed."""
    with (
        CassandraNode(heap="512m") as first,
        CassandraNode(heap="512m", host="127.0.0.2", seed=first) as second,
        CassandraNode(heap="512m", host="127.0.0.3", seed=first) as third,
    ):
        nodes = [first, second, third]
        keyspace = new_keyspace(*nodes, timeout_s=2.0)
        judge = run_chaos(keyspace, nodes, SECONDS, seed=22, kills_nodes=True)
        tell(f"Cassandra, chaos of {SECONDS} s on three nodes: {judge.counts}")
        assert judge.violations == []
        assert judge.counts["acked"] >= SECONDS // 10
        assert judge.counts["killed"] >= 1
