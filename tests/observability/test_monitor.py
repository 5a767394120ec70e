"""What operators and their tools read over HTTP."""

import http.client
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.bus import Bus
from support.faults import pairs, request
from support.nats_server import HOST, NatsServer, free_port
from support.service import ServiceProcess
from support.wait import eventually

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    with NatsServer(jetstream=False) as running:
        yield running


@pytest.fixture
def service(server: NatsServer) -> Iterator[ServiceProcess]:
    with ServiceProcess(server.url) as running:
        yield running


def samples_of(service: ServiceProcess) -> Samples:
    status, text = service.http("/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def ask(service: ServiceProcess, method: str, path: str) -> http.client.HTTPResponse:
    where = urlsplit(service.wait_for_log(r"on=(http://\S+)")[1])
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    connection.request(method, path)
    return connection.getresponse()


def test_every_metric_has_our_prefix_a_help_text_and_a_type(service: ServiceProcess) -> None:
    families = list(text_string_to_metric_families(service.http("/metrics")[1]))
    assert len(families) > 10
    for family in families:
        # What Prometheus knows of every process has the names that it has everywhere.
        assert family.name.startswith(("alarmdigest_", "process_")), family.name
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert not re.search("_(ms|milliseconds|kb|mb)$", family.name), "base units only"


def test_every_counter_is_there_from_the_start_with_0(service: ServiceProcess) -> None:
    samples = samples_of(service)
    counters = {
        key: value
        for key, value in samples.items()
        if key[0].startswith("alarmdigest_") and key[0].endswith("_total")
    }
    assert set(counters.values()) == {0.0}
    assert samples["alarmdigest_request_seconds_count", frozenset()] == 0

    def labelled(name: str, label: str) -> set[str]:
        return {value for key, labels in counters if key == name for _, value in labels if label}

    reasons = {"json", "schema", "too_long", "status", "changed_at"}
    assert labelled("alarmdigest_rejected_total", "reason") == reasons
    assert labelled("alarmdigest_received_total", "kind") == {"event", "request", "forget"}
    assert labelled("alarmdigest_dropped_total", "kind") == {"event", "request", "refusal"}
    assert labelled("alarmdigest_published_total", "kind") == {"digest", "rejection"}


def test_traffic_is_counted_and_no_user_or_alarm_is_named(
    service: ServiceProcess, server: NatsServer
) -> None:
    with Bus(server.url) as bus:
        secret = "Iñtërnational-secret-"
        bus.publish_all([*pairs(range(10), padding=secret), request("nobody-secret")])
        bus.publish_all([("AlarmStatusChanged", b'{"AlarmID":"a-secret"}')])
        bus.wait_for_digests(10)
        bus.wait_for_rejected(1)
        for kind, count in (("rejection", 1), ("digest", 10)):
            published = f'alarmdigest_published_total{{kind="{kind}"}}'
            eventually(lambda: service.metric(published) == count, what=kind)  # noqa: B023
    found = {
        (name, *(value for _, value in labels)): count
        for (name, labels), count in samples_of(service).items()
    }
    assert found["alarmdigest_received_total", "event"] == 11
    assert found["alarmdigest_received_total", "request"] == 11
    assert found["alarmdigest_rejected_total", "schema"] == 1
    # By the names of the release before.
    assert found["alarmdigest_refused_total", "schema"] == 1
    assert found["alarmdigest_odd_total",] == found["alarmdigest_slow_path_total",] == 1
    assert found["alarmdigest_dropped_total", "event"] == 0
    assert found["alarmdigest_book_events_total",] == 10
    assert found["alarmdigest_book_requests_total",] == 11
    assert found["alarmdigest_book_empty_requests_total",] == 1
    assert found["alarmdigest_book_digests_total",] == 10
    assert found["alarmdigest_book_alarms_sent_total",] == 10
    assert found["alarmdigest_published_total", "digest"] == 10
    assert found["alarmdigest_alarms",] == 10
    assert found["alarmdigest_backlog_bytes",] == 0
    everything = "".join(service.http(path)[1] for path in ("/metrics", "/healthz", "/readyz"))
    assert "secret" not in everything
    assert "user-" not in everything


def test_the_content_types_are_what_a_scraper_expects(service: ServiceProcess) -> None:
    metrics = ask(service, "GET", "/metrics")
    assert (metrics.getheader("Content-Type") or "").startswith("text/plain; version=0.0.4")
    healthy = ask(service, "GET", "/healthz?verbose")
    assert (healthy.status, healthy.read()) == (200, b"ok\n")
    assert (healthy.getheader("Content-Type") or "").startswith("text/plain")


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/metricsx", "/../etc"])
def test_an_unknown_path_is_not_found(service: ServiceProcess, path: str) -> None:
    assert ask(service, "GET", path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/"])
def test_only_get_is_answered(service: ServiceProcess, method: str, path: str) -> None:
    answer = ask(service, method, path)
    assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")


def test_healthy_is_not_the_same_as_ready() -> None:
    """To restart the service would not bring the server back, so it is not asked for."""
    with NatsServer(jetstream=False) as server, ServiceProcess(server.url) as service:
        assert service.http("/readyz") == (200, "ok\n")
        assert service.http("/healthz") == (200, "ok\n")
        server.kill()
        eventually(lambda: service.http("/readyz")[1].count("\n") == 2, what="both connections")
        status, text = service.http("/readyz")
        assert status == 503
        assert re.match("not subscribed to NATS: .+\nthe publisher has no connection: .+\n$", text)
        assert service.http("/healthz") == (200, "ok\n")


def test_before_it_is_ready_it_answers_and_says_what_is_missing() -> None:
    service = ServiceProcess(f"nats://{HOST}:{free_port()}")
    try:
        service.start(ready=False).wait_for_log("cannot connect")
        assert service.http("/healthz") == (200, "ok\n")
        status, text = service.http("/readyz")
        assert status == 503
        assert "not connected to NATS yet" in text
        assert "refused" in text
        assert samples_of(service)
    finally:
        service.kill()


def test_a_client_that_says_nothing_does_not_keep_others_waiting(service: ServiceProcess) -> None:
    where = urlsplit(service.wait_for_log(r"on=(http://\S+)")[1])
    with socket.create_connection((where.hostname or "", where.port or 0)) as silent:
        silent.sendall(b"GET /healthz HT")
        assert service.http("/healthz") == (200, "ok\n")
