"""What a group costs: digests behind a fence, a lone digest, a follower, beats, snapshots."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench_latency import measure, p
from load import events, publisher, request, user_id
from report import Report
from rig import (
    EXTRA,
    JETSTREAM_EXTRA,
    TIMEOUT_S,
    WORKERS,
    Reference,
    Round,
    Subscriber,
    nats_server,
    process_cpu_seconds,
    side_by_side,
    the_end,
)
from support.cluster import Cluster
from support.jetstream import asking, info_of
from support.judge import DIGESTS
from support.raw import frames_of
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.replication.subjects import leader_subject

USERS, ALARMS = 10_000, 25
REST_S = 10.0
MILLION = (40_000, 25)
WHILE_SNAPSHOTS_ARE_MADE = 3000


def cluster_of_three() -> Cluster:
    return Cluster(extra=EXTRA, jetstream_extra=JETSTREAM_EXTRA)


def replica(stack: ExitStack, url: str, name: str, *options: str) -> ServiceProcess:
    group = ("--group", "bench", "--replica-name", name, "--workers", str(WORKERS), *options)
    return stack.enter_context(ServiceProcess(url, mode="stream", options=group))


def stored(url: str) -> int:
    """Digests in the stream, without leader messages."""
    with asking(url) as js:
        found = js.request(f"STREAM.INFO.{DIGESTS}", {"subjects_filter": leader_subject("bench")})
    messages: int = found["state"]["messages"]
    leaders: dict[str, int] = found["state"].get("subjects") or {}
    return messages - sum(leaders.values())


def wait_for_stored(url: str, count: int) -> None:
    eventually(
        lambda: stored(url) >= count,
        timeout=TIMEOUT_S,
        interval=0.02,
        what=f"{count} digests stored",
    )
    assert stored(url) == count


def wait_for_read(service: ServiceProcess, url: str, count: int) -> None:
    """Until the input stream holds so many messages, and it has routed all of them."""

    def done() -> bool:
        with asking(url) as js:
            last = info_of(js, "ALARMS").last_seq
        position = json.loads(service.http("/status.json")[1])["position"]
        return position is not None and last >= count and position["sequence"] == last

    eventually(done, timeout=TIMEOUT_S, interval=0.1, what="everything read")


def test_digests_at_three_stream_replicas(benchmark: Any, report: Report) -> None:
    """A request for each user; digests of 25 alarms, until the stream has all of them."""
    requests = frames_of(request(user_id(user)) for user in range(USERS))
    load = events(USERS, ALARMS)
    bodies: list[bytes] = []

    def ours(*, group: bool) -> Round:
        with ExitStack() as stack:
            cluster = stack.enter_context(cluster_of_three())
            url = cluster.urls[0]
            on_three = ("--stream-replicas", "3")
            if group:
                service = replica(stack, url, "a", *on_three)
            else:
                options = ("--workers", str(WORKERS), *on_three)
                service = stack.enter_context(ServiceProcess(url, mode="stream", options=options))
            with publisher(url, [load]) as go:
                go()
                eventually(
                    lambda: service.metric("alarmdigest_book_events_total") == USERS * ALARMS,
                    timeout=TIMEOUT_S,
                    what="all merged",
                )
            subscriber = Subscriber(url)
            stack.callback(subscriber.close)
            go = stack.enter_context(publisher(url, [requests]))
            started = time.perf_counter()
            go()
            wait_for_stored(url, USERS)
            took = time.perf_counter() - started
            if not bodies:
                bodies.extend(subscriber.collect(USERS))
            return Round(took)

    def bare() -> Round:
        if not bodies:
            ours(group=False)
        with ExitStack() as stack:
            cluster = stack.enter_context(cluster_of_three())
            url = cluster.urls[0]
            options = ("--stream-replicas", "3")
            with ServiceProcess(url, mode="stream", options=options) as maker:
                maker.stop()
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            file.write(b"\n".join(bodies))
            file.flush()
            contestant = Reference(stack, "acked", url, USERS, file.name)
            started = time.perf_counter()
            contestant.go()
            contestant.wait()
            return Round(time.perf_counter() - started)

    name = "bare publisher, PubAcks"
    references: dict[str, Callable[[], Round]] = {
        name: bare,
        "without a group": lambda: ours(group=False),
    }
    mine, others = side_by_side(benchmark, lambda: ours(group=True), references, rounds=3)

    def rate(rounds: list[Round]) -> float:
        return statistics.median(USERS / one.seconds for one in rounds)

    # Without a group the same service publishes the same digests pipelined, and waits for PubAcks.
    for other, target in ((name, ""), ("without a group", ">= 0.8")):
        report.row(
            "group",
            "digests of 25 alarms, three stream replicas",
            rate(mine),
            "/s",
            ratio=rate(mine) / rate(others[other]),
            reference=other,
            target=target,
        )


def test_a_lone_digest(benchmark: Any, report: Report) -> None:
    """On two servers, asked in turn."""
    found: list[tuple[list[float], list[float]]] = []
    with ExitStack() as stack:
        one, other = stack.enter_context(nats_server()), stack.enter_context(nats_server())
        options = ("--workers", str(WORKERS))
        stack.enter_context(ServiceProcess(one.url, mode="stream", options=options))
        replica(stack, other.url, "a")
        for server in (one, other):
            measure(server.url, 100)

        def both() -> None:
            alone, _ = measure(one.url, 1000)
            grouped, _ = measure(other.url, 1000)
            found.append((alone, grouped))

        benchmark.pedantic(both, rounds=3)
    alone = [each for played, _ in found for each in played]
    grouped = [each for _, played in found for each in played]
    report.row(
        "group",
        "a lone digest, p50, longer than without a group by",
        (p(grouped, 50) - p(alone, 50)) * 1e3,
        "ms",
        target="<= 0.3",
        better="less",
    )


def test_followers(benchmark: Any, report: Report) -> None:
    """CPU time for the same events, and at rest."""
    users = 20_000

    def load_all(names: str) -> tuple[dict[str, float], float]:
        """CPU seconds of each for the events; of all of them together, in a second of rest."""
        with ExitStack() as stack:
            server = stack.enter_context(nats_server())
            if names:
                services = {name: replica(stack, server.url, name) for name in names}
            else:
                options = ("--workers", str(WORKERS))
                alone = ServiceProcess(server.url, mode="stream", options=options)
                services = {"alone": stack.enter_context(alone)}
            before = {name: process_cpu_seconds(one.process.pid) for name, one in services.items()}
            go = stack.enter_context(publisher(server.url, [events(users, ALARMS), the_end()]))
            go()
            for one in services.values():
                wait_for_read(one, server.url, users * ALARMS)
            used = {
                name: process_cpu_seconds(one.process.pid) - before[name]
                for name, one in services.items()
            }
            pids = [one.process.pid for one in services.values()]
            total = sum(map(process_cpu_seconds, pids))
            until = time.monotonic() + REST_S
            eventually(lambda: time.monotonic() >= until, timeout=2 * REST_S, what="rest")
            return used, (sum(map(process_cpu_seconds, pids)) - total) / REST_S

    found: list[tuple[dict[str, float], float]] = []

    def play() -> None:
        found.append(load_all(""))
        found.append(load_all("abc"))

    benchmark.pedantic(play, rounds=1)
    (alone, rest_alone), (group, rest_group) = found
    follower = statistics.median(group.values())
    report.row(
        "group",
        "CPU time of a replica for an event",
        follower / (users * ALARMS) * 1e6,
        "µs",
        ratio=follower / alone["alone"],
        reference="a single instance",
        better="less",
    )
    report.row(
        "group",
        "beats of three replicas, of a core",
        round((rest_group - 3 * rest_alone) * 100, 2),
        "%",
        target="<= 1",
        better="less",
    )


def test_snapshot_of_a_million_alarms(benchmark: Any, report: Report) -> None:
    users, alarms = MILLION
    with ExitStack() as stack:
        server = stack.enter_context(nats_server())
        options = ("--workers", str(WORKERS), "--snapshots", "--snapshot-interval", "1s")
        service = stack.enter_context(ServiceProcess(server.url, mode="stream", options=options))
        go = stack.enter_context(publisher(server.url, [events(users, alarms), the_end()]))
        go()
        wait_for_read(service, server.url, users * alarms)
        made = service.metric("alarmdigest_snapshots_total")
        eventually(
            lambda: service.metric("alarmdigest_snapshots_total") >= made + 2,
            timeout=60,
            interval=0.2,
            what="a snapshot of all",
        )
        took = service.metric("alarmdigest_snapshot_seconds")
        # One after the other is made meanwhile.
        made = service.metric("alarmdigest_snapshots_total")
        ours, bare = measure(server.url, WHILE_SNAPSHOTS_ARE_MADE)
        assert service.metric("alarmdigest_snapshots_total") > made
        assert service.stop() == 0

        def wiped() -> tuple[tuple[()], dict[str, Any]]:
            if service.process.poll() is None:
                assert service.stop() == 0
            shutil.rmtree(service.data_dir)
            return (), {}

        benchmark.pedantic(service.start, setup=wiped, rounds=3)
        assert "restored the state from a snapshot" in service.log
        held = users * alarms + WORKERS + WHILE_SNAPSHOTS_ARE_MADE
        assert service.metric("alarmdigest_alarms") == held
    start = benchmark.stats.stats.median
    report.row("group", "snapshot of 1 M alarms", took, "s", target="<= 3", better="less")
    for what, times in (("a digest", ours), ("a bare request", bare)):
        name = f"{what} while snapshots are made"
        report.row("group", f"{name}, p50", p(times, 50) * 1000, "ms", better="less")
        report.row("group", f"{name}, slowest", max(times) * 1000, "ms", better="less")
    report.row("group", "start from it", start, "s", target="<= 5", better="less")
