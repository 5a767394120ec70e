"""Three servers, every stream on all of them, and one of them goes: what does the service add to
what publishers wait anyway?

A publisher beside the service sends pairs of an event and a request all the time, and sends again
by itself, quickly and elsewhere: it waits for as long as the stream has no leader. A second one
does the same with the stream of digests. What a digest needs beyond both is the service's share.
Run by ``make test-cluster``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from nats.errors import Error as NatsPyError
from support.cluster import Cluster, lame_duck
from support.judge import read_stream
from support.nats_server import NatsServer
from support.pulse import Pulse
from support.service import ServiceProcess
from support.wait import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ALARMS, DIGESTS = "ALARMS", "ALARM_DIGESTS"
PROBE = [("AlarmDigest", b'{"UserID":"a probe of the test"}')]
ROLES = {0: "leads ALARMS", 1: "leads ALARM_DIGESTS", 2: "has the service's connections"}
# How a node goes, and what the service may add then, in seconds.
WAYS = {"killed": 2.0, "stopped (SIGSTOP)": 2.0, "ended (SIGTERM)": 1.0, "lame duck": 1.0}
# So long it stays so after publishers wait no more: longer than the service may need.
AFTER_S = 4.0
# From the confirmation of a request to that of its digest, generously.
ON_ITS_WAY_S = 0.1


@dataclass(frozen=True)
class Figures:
    """In seconds."""

    case: str
    publishers: float
    digest_stream: float
    digests: float
    share: float

    def __str__(self) -> str:
        return (
            f"{self.case:<50} publishers waited {self.publishers:5.2f} s, "
            f"the digest stream {self.digest_stream:5.2f} s, digests {self.digests:5.2f} s; "
            f"the service's share: {self.share:5.2f} s"
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture(scope="module")
def figures() -> Iterator[list[Figures]]:
    found: list[Figures] = []
    yield found
    print("\n" + "\n".join(map(str, found)))


def pair(run: str, number: int) -> list[tuple[str, bytes]]:
    user = f"{run}-{number}"
    event = {
        "UserID": user,
        "AlarmID": "a",
        "Status": "WARNING",
        "ChangedAt": "2026-01-01T00:00:00Z",
    }
    request = {"UserID": user}
    bodies = json.dumps(event).encode(), json.dumps(request).encode()
    return list(zip(("AlarmStatusChanged", "SendAlarmDigest"), bodies, strict=True))


def end(node: NatsServer, how: str) -> None:
    if how == "killed":
        node.kill()
    elif how.startswith("stopped"):
        node.pause()
    elif how.startswith("ended"):
        node.stop()
    else:
        lame_duck(node)


def restore(node: NatsServer, how: str) -> None:
    if how.startswith("stopped"):
        node.resume()
        return
    node.kill()  # a lame duck takes its time
    node.start()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("victim", ROLES, ids=ROLES.get)
def test_the_service_adds_little_to_what_publishers_wait(
    cluster: Cluster, figures: list[Figures], victim: int, how: str
) -> None:
    # From the last node on: that is where the service connects first.
    servers = [option for url in reversed(cluster.urls) for option in ("--server", url)]
    options = [*servers, "--stream-replicas", "3", "--workers", "2"]
    with ServiceProcess(mode="stream", options=options) as service:
        cluster.settle()
        cluster.lead(ALARMS, cluster.nodes[0])
        cluster.lead(DIGESTS, cluster.nodes[1])
        run = f"{time.time_ns()}"
        ports = [node.port for node in cluster.nodes]
        with (
            Pulse(ports, lambda number: pair(run, number)) as pairs,
            Pulse(ports, lambda _number: PROBE) as probes,
        ):
            eventually(lambda: len(pairs.beats) > 20 and len(probes.beats) > 20, what="a pulse")
            at = time.time()
            node = cluster.nodes[victim]
            end(node, how)
            try:
                eventually(lambda: steady(at, pairs, probes), timeout=30, what="both to be steady")
            except AssertionError:
                restore(node, how)
                raise
        restore(node, how)
        cluster.settle()
        found = measured(cluster, service, run, pairs, probes, f"{ROLES[victim]}, {how}")
        figures.append(found)
        print(f"\n{found}")
        assert found.share <= WAYS[how], f"{found}\n{service.log}"
        assert service.stop() == 0


def steady(at: float, *pulses: Pulse) -> bool:
    """Whether all are confirmed at once, and have been for a while since the fault."""
    now = time.time()
    return all(
        pulse.beats[-1].sent > now - 0.2 and now - max(at, pulse.steady_since()) > AFTER_S
        for pulse in pulses
    )


def measured(
    cluster: Cluster, service: ServiceProcess, run: str, pairs: Pulse, probes: Pulse, case: str
) -> Figures:
    """Also that every digest is there once."""
    stored: dict[str, list[float]] = {}

    def all_there() -> bool:
        stored.clear()
        try:
            found = read_stream(cluster.nodes[0].url, DIGESTS)
        except NatsPyError:  # nothing that one could be made of just now
            return False
        for message in found:
            stored.setdefault(json.loads(message.body)["UserID"], []).append(message.time_ns / 1e9)
        return all(f"{run}-{beat.number}" in stored for beat in pairs.beats)

    eventually(all_there, timeout=20, interval=0.2, what=f"all digests\n{service.log}")
    digests = [stored[f"{run}-{beat.number}"] for beat in pairs.beats]
    assert [len(times) for times in digests] == [1] * len(digests), "a digest is there twice"
    waits, shares = [], []
    for beat, [at] in zip(pairs.beats, digests, strict=True):
        waits.append(at - beat.sent)
        # What was on its way at the very moment of the fault belongs to the fault.
        shares.append(max(0.0, at - probes.available(beat.confirmed + ON_ITS_WAY_S)))
    return Figures(case, pairs.longest_wait(), probes.longest_wait(), max(waits), max(shares))
