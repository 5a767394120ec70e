"""`trace`: each step of one user's messages in the log, and nobody else's."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import orjson
import pytest
from nats.aio.msg import Msg
from support.bus import Bus
from support.command import run_command
from support.inputs import event, request
from support.nats_server import NatsServer
from support.service import ServiceProcess
from support.wait import eventually

from alarmdigest.runtime import exit_codes

OPTIONS = ["--checkpoint-interval", "100ms", "--workers", "3"]


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


STORY = [
    event("ada", "a", "WARNING", 5),
    event("bob", "a", "WARNING", 5),
    event("ada", "a", "CRITICAL", 4),
    event("ada", "a", "WARNING", 5),
    event("ada", "a", "CRITICAL", 6),
    request("ada"),
    request("bob"),
    request("ada"),
    ("SendAlarmDigest", b'{"UserID":"ada"'),
    ("AlarmStatusChanged", b'{"UserID":"ada"}'),
    ("ForgetUser", orjson.dumps({"UserID": "ada"})),
]


def traced(service: ServiceProcess) -> list[str]:
    return re.findall(r" trace: ([a-z_ ]+?)(?: [a-z]+=|$)", service.log, re.MULTILINE)


@pytest.mark.parametrize("mode", ["stream", "core"])
def test_each_step_of_one_user(server: NatsServer, mode: str) -> None:
    with ServiceProcess(server.url, mode=mode, options=OPTIONS) as service, Bus(server.url) as bus:
        bus.publish_all([event("ada", "before", "WARNING")])
        bus.flush()
        begun = run_command("trace", "ada", "--server", server.url)
        assert begun.stdout == "the running service logs each step of user ada for 600 s\n"
        bus.publish_all(STORY)
        wanted = ["new", "late", "repeated", "merged", "digest", "digest made"]
        wanted += ["nothing_due", "forgotten"]
        eventually(lambda: "trace: forgotten" in service.log, what="all steps")
        eventually(lambda: "trace: confirmed" in service.log, what="the digest to be confirmed")
        steps = traced(service)
        assert [one for one in steps if one not in ("rejected", "confirmed")] == wanted
        assert steps.count("rejected") == 2
        assert steps.count("confirmed") == 1
        assert steps.index("confirmed") > steps.index("digest made")
        assert re.search(r"trace: rejected sequence=\d+ reason=json detail='not JSON", service.log)
        # Who is not traced is nowhere in the log.
        assert "bob" not in service.log
        assert "before" not in service.log
        if mode == "stream":
            assert re.search(
                r"trace: late sequence=4 worker=\d kind=event alarm='a' status=CRITICAL",
                service.log,
            )
            made = re.search(r"trace: digest made sequence=7 id=([0-9a-f]+) alarms=2", service.log)
            assert made is not None
            assert bus.wait_for_digests(2)[0].headers["Nats-Msg-Id"] in service.log
        wrong = run_command("trace", "bob", "--off", "--server", server.url)
        assert wrong.returncode == exit_codes.USAGE
        assert "somebody else is traced, not this user" in wrong.stderr
        assert json.loads(service.http("/status.json")[1])["trace_seconds_left"] > 500
        off = run_command("trace", "ada", "--off", "--server", server.url)
        assert off.stdout == "the running service traces nobody any more\n"
        assert "trace ends user='ada' lines_left_out=0" in service.log
        bus.publish_all([event("ada", "after", "WARNING"), event("bob", "z", "WARNING", 9)])
        bus.publish_all([request("bob")])
        bus.wait_for_digests(3)
        assert "after" not in service.log


@pytest.mark.slow
def test_it_ends_by_itself_and_never_floods(server: NatsServer) -> None:
    with (
        ServiceProcess(server.url, mode="core", options=OPTIONS) as service,
        Bus(server.url) as bus,
    ):
        run_command("trace", "ada", "--for", "6s", "--server", server.url)
        bus.publish_all([event("ada", f"{n}", "WARNING") for n in range(5000)])
        # It is noticed when something is read: the service's own pings are.
        deadline = time.monotonic() + 40
        while "trace ends" not in service.log and time.monotonic() < deadline:
            bus.publish_all([event("bob", "a", "WARNING")])
            time.sleep(0.05)
        assert "trace ends" in service.log
        assert len(traced(service)) < 200 + 50 * 10
        left_out = [int(one) for one in re.findall(r"lines_left_out=(\d+)", service.log)]
        assert sum(left_out) + len(traced(service)) == 5000
        assert service.metric("alarmdigest_alarms") == 5001


def test_the_last_one_who_asks_is_served(server: NatsServer) -> None:
    with ServiceProcess(server.url, mode="core", options=OPTIONS):
        run_command("trace", "ada", "--server", server.url)
        done = run_command("trace", "bob", "--server", server.url)
        assert done.stdout.endswith("of user bob for 600 s, and no more of user ada\n")


def test_one_that_refuses_does_not_hide_the_others(server: NatsServer) -> None:
    with ServiceProcess(server.url, mode="core", options=OPTIONS), Bus(server.url) as bus:

        async def refuse(message: Msg) -> None:
            await message.respond(b'{"error":"not here","busy":false,"last":true}')

        bus.run(bus.client.subscribe("AlarmDigestQuery.trace", cb=refuse))
        bus.flush()
        done = run_command("trace", "ada", "--server", server.url)
        assert done.returncode == 0, done.stderr
        assert "logs each step of user ada" in done.stdout
        assert "one of several: the service says: not here" in done.stderr


def test_a_log_that_would_not_show_it(server: NatsServer) -> None:
    options = [*OPTIONS, "--log-level", "warning"]
    service = ServiceProcess(server.url, mode="core", options=options)
    service.start(ready=False)
    try:
        eventually(
            lambda: (
                "no service answers"
                not in run_command("trace", "ada", "--server", server.url).stderr
            ),
            what="an answer",
        )
        done = run_command("trace", "ada", "--server", server.url)
        assert done.returncode == exit_codes.USAGE
        assert "a trace is logged with --log-level info or debug" in done.stderr
    finally:
        service.stop()


def test_from_the_start_on(server: NatsServer) -> None:
    options = [*OPTIONS, "--trace", "ada"]
    with (
        ServiceProcess(server.url, mode="core", options=options) as service,
        Bus(server.url) as bus,
    ):
        bus.publish_all([event("ada", "a", "WARNING"), event("bob", "a", "WARNING")])
        eventually(lambda: "trace: new sequence=0 worker=" in service.log, what="the event")
        assert json.loads(service.http("/status.json")[1])["settings"]["trace"] == "********"


def test_what_cannot_be_traced(server: NatsServer) -> None:
    alone = run_command("trace", "ada", "--server", server.url)
    assert alone.returncode == exit_codes.NATS_NOT_REACHABLE
    assert "no service answers AlarmDigestQuery.trace" in alone.stderr
    for wrong in (["--for", "2d"], ["--for", "soon"]):
        done = run_command("trace", "ada", *wrong, "--server", server.url)
        assert done.returncode == exit_codes.USAGE
    assert run_command("trace", "", "--server", server.url).returncode == exit_codes.USAGE
