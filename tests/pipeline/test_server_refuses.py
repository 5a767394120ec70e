"""A server that is there and does not let the service do its work: it says so, keeps what it has,
and goes on when it may."""

from pathlib import Path

from support.bus import Bus
from support.faults import (
    ChangingServer,
    assert_in_order_for_each_user,
    event,
    gated,
    numbers,
    pairs,
    request,
    users,
)
from support.proxy import Proxy
from support.service import ServiceProcess
from support.stream_service import let_time_pass
from support.wait import eventually

NO_DIGESTS = 'publish: { deny: ["AlarmDigest"] }'
NO_REFUSALS = 'publish: { deny: ["AlarmRejected"] }'
NO_EVENTS = 'subscribe: { deny: ["AlarmStatusChanged"] }'
EVERYTHING = 'publish: ">"'


def wait_for_status(service: ServiceProcess, status: int, *words: str) -> str:
    def answered() -> str | None:
        got, text = service.http("/readyz")
        return text if got == status and all(word in text for word in words) else None

    text = eventually(answered, what=f"{status} and {words} of /readyz")
    assert service.http("/healthz") == (200, "ok\n"), "to restart it would not help"
    return text or ""


def as_user(server: ChangingServer) -> dict[str, str]:
    return {"NATS_URL": server.url_of("service")}


def test_digests_that_may_not_be_published_are_kept_until_they_may() -> None:
    count = 500
    with (
        ChangingServer(extra=users(NO_DIGESTS)) as server,
        ServiceProcess(environment=as_user(server)) as service,
        Bus(server.url_of("bus")) as bus,
    ):
        bus.publish_all(pairs(range(count)))
        wait_for_status(service, 503, "digests cannot be published", 'Publish to "AlarmDigest"')
        service.wait_for_log(r"ERROR .*digests cannot be published and are kept .*Violation")
        bus.publish_all(pairs(range(count, 2 * count)))
        eventually(lambda: service.metric("alarmdigest_book_digests_total") == 2 * count)
        assert service.metric('alarmdigest_published_total{kind="digest"}') == 0
        assert bus.digests == []
        server.reload(users(EVERYTHING))
        digests = bus.wait_for_digests(2 * count)
        wait_for_status(service, 200)
        assert_in_order_for_each_user(digests)
        assert sorted(numbers(digests)) == list(range(2 * count))
        assert len({digest.headers["Nats-Msg-Id"] for digest in digests}) == 2 * count
        published = 'alarmdigest_published_total{kind="digest"}'
        eventually(lambda: service.metric(published) == 2 * count, what="all confirmed")
        assert "s3cret" not in service.log


def test_a_refused_batch_is_tried_again_after_a_second_not_after_one_for_each_digest() -> None:
    with (
        ChangingServer(extra=users(NO_DIGESTS)) as server,
        ServiceProcess(environment=as_user(server)) as service,
        Bus(server.url_of("bus")) as bus,
    ):
        bus.publish_all(pairs(range(50)))
        wait_for_status(service, 503)
        server.reload(users(EVERYTHING))
        bus.wait_for_digests(50, timeout=5)


def test_refusals_that_may_not_be_published_are_counted_and_hold_up_nothing() -> None:
    with (
        ChangingServer(extra=users(NO_REFUSALS)) as server,
        ServiceProcess(environment=as_user(server)) as service,
        Bus(server.url_of("bus")) as bus,
    ):
        for number in range(20):
            bus.publish_all([("AlarmStatusChanged", b"{"), *pairs([number])])
        bus.wait_for_digests(20)
        dropped = 'alarmdigest_dropped_total{kind="refusal"}'
        eventually(lambda: service.metric(dropped) == 20, what="20 lost refusals")
        eventually(lambda: service.metric('alarmdigest_published_total{kind="digest"}') == 20)
        assert service.metric('alarmdigest_published_total{kind="rejection"}') == 0
        assert bus.rejected == []
        assert service.http("/readyz") == (200, "ok\n")
        assert service.stop() == 0


def test_a_digest_that_has_become_too_large_waits_for_a_server_that_takes_it(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "open"
    with (
        ChangingServer(extra="max_payload: 100000") as server,
        Proxy(server.port) as proxy,
        ServiceProcess(proxy.url, program=gated(gate)) as service,
        Bus(server.url) as bus,
    ):

        def restart(extra: str) -> None:
            reconnects = bus.client.stats["reconnects"]
            proxy.refuse()
            server.stop()
            server.change(extra)
            server.start()
            eventually(lambda: bus.client.stats["reconnects"] > reconnects, what="the bus")
            bus.flush()
            proxy.accept()

        alarms = [
            (subject, body)
            for number in range(20)
            for subject, body in pairs([number], users=1, padding="x" * 900 + ".")
            if subject == "AlarmStatusChanged"
        ]
        bus.publish_all([*alarms, *pairs([20], users=1), *pairs([21], users=1)])
        eventually(lambda: service.metric('alarmdigest_received_total{kind="request"}') == 2)
        restart("max_payload: 4096")
        gate.touch()
        wait_for_status(service, 503, "max_payload of 4096", "--split-size")
        assert bus.digests == []
        restart("max_payload: 100000")
        first, second = bus.wait_for_digests(2)
        assert sorted(numbers([first])) == list(range(21))
        assert numbers([second]) == [21]
        wait_for_status(service, 200)


def test_what_waits_behind_a_digest_that_is_too_large_is_no_reason_to_repeat_what_is_before_it(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "open"
    one_by_one = "import alarmdigest.pipeline.publisher as publisher; publisher.MAX_TAKEN_BYTES = 1"
    with (
        ChangingServer(extra="max_payload: 100000") as server,
        Proxy(server.port) as proxy,
        ServiceProcess(
            proxy.url, program=gated(gate, one_by_one), options=["--workers", "1"]
        ) as service,
        Bus(server.url) as bus,
    ):
        large = [event("large", "x" * 900 + f"{number}") for number in range(20)]
        for count, messages in enumerate(
            ([event("small", "a"), request("small")], [*large, request("large")]), 1
        ):
            bus.publish_all(messages)  # a batch each, so a digest that is sent by itself
            received = 'alarmdigest_received_total{kind="request"}'
            eventually(lambda: service.metric(received) == count, what="it read")  # noqa: B023
        proxy.refuse()
        server.stop()
        server.change("max_payload: 4096")
        server.start()
        eventually(lambda: bus.client.is_connected, what="the bus")
        bus.flush()
        proxy.accept()
        eventually(lambda: service.http("/readyz")[0] == 200, what="connected again")
        proxy.delay(0.05)  # the confirmation of the first is still on its way when it meets the 2nd
        gate.touch()
        wait_for_status(service, 503, "max_payload of 4096")
        let_time_pass(4.0)  # of several attempts
        assert [digest.json["UserID"] for digest in bus.digests] == ["small"]


def test_without_a_subscription_it_is_not_ready_and_does_not_spin() -> None:
    with (
        ChangingServer(extra=users()) as server,
        ServiceProcess(environment=as_user(server)) as service,
        Bus(server.url_of("bus")) as bus,
    ):
        server.reload(users(NO_EVENTS))
        wait_for_status(service, 503, 'Violation for Subscription to "AlarmStatusChanged"')
        lost = "alarmdigest_listener_connections_lost_total"
        # With pauses of 0.05, 0.1, … s, never shorter than half of that, the eighth loss comes
        # after three seconds; without, after a few milliseconds.
        eventually(lambda: service.metric(lost) >= 4, what="several attempts")
        assert cpu_seconds(service) < 3
        assert service.metric(lost) < 8
        server.reload(users(EVERYTHING))
        wait_for_status(service, 200)
        bus.publish_all(pairs([1]))
        bus.wait_for_digests(1)


def cpu_seconds(service: ServiceProcess) -> float:
    """Since its start, or 0 where there is no /proc."""
    stat = Path(f"/proc/{service.process.pid}/stat")
    if not stat.exists():
        return 0.0
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100


def test_without_a_subscription_from_the_start_it_gives_up_in_time_and_says_why() -> None:
    with ChangingServer(extra=users(NO_EVENTS)) as server:
        options = ["--connect-timeout", "1s"]
        service = ServiceProcess(environment=as_user(server), options=options)
        service.start(ready=False)
        assert service.wait() == 3
        assert "NATS is there, but does not do what is needed: " in service.log
        assert service.log.splitlines()[-1].endswith('Subscription to "AlarmStatusChanged"')
        assert " ready " not in service.log
