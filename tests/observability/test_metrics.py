"""The metrics: each is documented, and what a histogram or an age says is so."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.bus import Bus
from support.faults import gated, pairs, request
from support.nats_server import NatsServer
from support.paths import ROOT
from support.proxy import Proxy
from support.service import ServiceProcess
from support.streams import store_all
from support.wait import eventually

from alarmdigest.observability.losses import PLACES
from alarmdigest.runtime.histogram import BOUNDS_S, Histogram

DOCUMENT = (ROOT / "docs/metrics.md").read_text("utf-8")


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer() as running:
        yield running


@pytest.fixture(scope="module")
def scrape(server: NatsServer) -> dict[str, tuple[str, set[str]]]:
    """What a replica of a group, which has all metrics, shows: name -> type and labels."""
    with ServiceProcess(server.url, mode="stream", options=("--group", "mail")) as service:
        _status, text = service.http("/metrics")
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in text_string_to_metric_families(text)
        if not family.name.startswith("process_")
    }


def documented() -> dict[str, tuple[str, set[str]]]:
    rows = re.findall(r"^\| `(alarmdigest_\w+)` \| (\w+) \| (.*?) ?\| ", DOCUMENT, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_metric_is_documented_and_every_documented_one_is_there(
    scrape: dict[str, tuple[str, set[str]]],
) -> None:
    assert documented() == scrape


def test_every_place_of_a_loss_is_documented_and_begins_with_0(server: NatsServer) -> None:
    _before, section = DOCUMENT.split("## Losses by place\n")
    assert tuple(re.findall(r"^\| `(\w+)` ", section.split("\n## ")[0], re.MULTILINE)) == PLACES
    with ServiceProcess(server.url) as service:
        for place in PLACES:
            assert service.metric(f'alarmdigest_lost_total{{place="{place}"}}') == 0


def test_a_lost_connection_of_core_mode_is_a_loss() -> None:
    with NatsServer(jetstream=False) as server, ServiceProcess(server.url) as service:

        def counted_once(name: str) -> bool:
            return service.metric(name) == 1

        server.kill()
        server.start()
        for name in (
            'alarmdigest_lost_total{place="core_connection"}',
            'alarmdigest_reconnects_total{connection="listener"}',
            'alarmdigest_reconnects_total{connection="publisher"}',
        ):
            eventually(partial(counted_once, name), what=name)


@pytest.mark.parametrize("mode", ["core", "stream"])
def test_a_request_that_waited_shows_how_long_and_counts_once(mode: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode=mode, program=gated(gate)) as service,
        Bus(server.url) as bus,
    ):
        started = time.monotonic()
        bus.publish_all([*pairs(range(20)), request("nobody")])
        ages = [f'alarmdigest_queue_age_seconds{{queue="worker-{n}"}}' for n in range(12)]
        waiting_since = eventually(
            lambda: [age for age in map(service.metric, ages) if age > 0.3], what="old batches"
        )
        assert max(waiting_since) < time.monotonic() - started
        gate.touch()
        bus.wait_for_digests(20)
        took = time.monotonic() - started
        eventually(
            lambda: service.metric('alarmdigest_published_total{kind="digest"}') == 20,
            what="confirmations",
        )
        assert service.metric("alarmdigest_request_seconds_count") == 20
        assert service.metric('alarmdigest_request_seconds_bucket{le="0.25"}') == 0
        assert 20 * 0.3 < service.metric("alarmdigest_request_seconds_sum") < 20 * took
        for stage in ("route", "wait", "merge", "send", "confirm"):
            count = f'alarmdigest_stage_seconds_count{{stage="{stage}"}}'
            total = f'alarmdigest_stage_seconds_sum{{stage="{stage}"}}'
            assert 1 <= service.metric(count) <= 20 * 2, f"{stage} is counted once per batch"
            assert 0 < service.metric(total) < 12 * took, stage
        assert sum(map(service.metric, ages)) == 0
        eventually(
            lambda: service.metric('alarmdigest_checkpoint_stage_seconds_sum{stage="write"}') > 0,
            what="a checkpoint",
        )
        assert service.metric('alarmdigest_checkpoint_stage_seconds_sum{stage="gather"}') > 0


def test_a_digest_that_is_sent_again_is_no_second_answer(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with (
        NatsServer() as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url, program=gated(gate)) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all(pairs(range(10)))
        received = 'alarmdigest_received_total{kind="request"}'
        eventually(lambda: service.metric(received) == 10, what="the requests")
        proxy.stall()
        gate.touch()
        answered = "alarmdigest_request_seconds_count"
        eventually(lambda: service.metric(answered) == 10, what="the digests in the socket")
        proxy.cut()
        proxy.resume()
        bus.wait_for_digests(10)
        eventually(lambda: service.metric("alarmdigest_unconfirmed_bytes") == 0, what="the end")
        assert service.metric("alarmdigest_resent_total") == 10
        assert service.metric(answered) == 10


def test_what_a_replay_finds_published_is_no_second_answer() -> None:
    options = ("--checkpoint-interval", "1h")
    published = 'alarmdigest_published_total{kind="digest"}'
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="stream", options=options) as service,
        Bus(server.url) as bus,
    ):
        store_all(bus, pairs(range(20)))
        eventually(lambda: service.metric(published) == 20, what="all digests in their stream")
        service.kill()
        store_all(bus, pairs(range(20, 23)))
        service.start()
        eventually(lambda: service.metric(published) == 3, what="the three that were missing")
        bus.wait_for_digests(23)
        assert service.metric("alarmdigest_replay_suppressed_total") == 20
        assert service.metric("alarmdigest_request_seconds_count") == 3


def test_the_stream_tells_how_far_behind_in_messages_and_seconds(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    # It asks for forty messages, and for no more while any of them waits.
    hesitant = gated(
        gate,
        "from alarmdigest.pipeline import listener\n"
        "from alarmdigest.pipeline.sources import pulls\n"
        "listener.PAUSE_AT_BYTES, pulls.PULL_MESSAGES = 0, 10",
    )
    with (
        NatsServer() as server,
        ServiceProcess(server.url, mode="stream", program=hesitant) as service,
        Bus(server.url) as bus,
    ):
        assert service.metric("alarmdigest_stream_lag_seconds") == 0
        service.stop()
        started = time.monotonic()
        bus.publish_all(pairs(range(100)))
        service.start()
        eventually(lambda: service.metric("alarmdigest_stream_lag_seconds") > 0.3, what="a lag")
        assert service.metric("alarmdigest_stream_lag_seconds") < time.monotonic() - started + 1
        assert service.metric("alarmdigest_stream_lag") == 200 - 40
        gate.touch()
        bus.wait_for_digests(100)
        eventually(lambda: service.metric("alarmdigest_stream_lag") == 0, what="no lag")
        assert service.metric("alarmdigest_stream_lag_seconds") == 0


def test_the_memory_of_the_books_grows_with_the_alarms(server: NatsServer) -> None:
    with ServiceProcess(server.url) as service, Bus(server.url) as bus:
        empty = service.metric("alarmdigest_book_bytes")
        bus.publish_all(pairs(range(10_000), padding="x" * 500))
        bus.wait_for_digests(10_000)
        grown = service.metric("alarmdigest_book_bytes") - empty
        assert 10_000 * 500 < grown < 10_000 * 2_500


def test_a_histogram_puts_a_duration_into_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.001, BOUNDS_S[-1], BOUNDS_S[-1] + 1):
        histogram.observe(seconds, 2)
    assert histogram.counts == [4, 2, *[0] * (len(BOUNDS_S) - 3), 2, 2]
    assert histogram.sum_s == pytest.approx(2 * (2.001 * BOUNDS_S[0] + 2 * BOUNDS_S[-1] + 1))
