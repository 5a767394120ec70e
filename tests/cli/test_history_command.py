"""`history` tells what became of each message: held to what the service really did."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from support.bus import Bus
from support.command import run_command
from support.faults import ChangingServer, users
from support.feeder import Feeder
from support.inputs import event, request
from support.jetstream import asking, info_of
from support.judge import ALARMS, DIGESTS, judge, read_stream
from support.nats_server import NatsServer
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.stream_service import RETENTION_NS, SKEW_NS, StreamService, settle
from support.streams import INPUTS
from support.wait import eventually

from alarmdigest._ext import timestamps
from alarmdigest.runtime import exit_codes

OPTIONS = ["--checkpoint-interval", "100ms"]


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def told(server: NatsServer, user: str, *options: str) -> list[dict[str, Any]]:
    done = run_command("history", "--json", "--server", server.url, *options, "--", user)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def mark_as_stored(bus: Bus, sequence: int) -> None:
    """Have bob asked for until one of his digests says that all up to this message is stored."""
    deadline = time.monotonic() + 20
    for number in itertools.count(len(bus.digests)):
        before = len(bus.digests)
        status = "WARNING" if number % 2 else "CRITICAL"
        when = f"2026-01-02T04:00:00.{number:06}Z"
        body = {"UserID": "bob", "AlarmID": "b", "Status": status, "ChangedAt": when}
        bus.publish_all([("AlarmStatusChanged", orjson.dumps(body)), request("bob")])
        bus.wait_for_digests(before + 1)
        marks = [one.headers.get("Alarmdigest-Stored-Through", "0") for one in bus.digests]
        if max(int(mark.split()[0]) for mark in marks) >= sequence:
            return
        assert time.monotonic() < deadline, "no digest had a mark"


def test_every_outcome(server: NatsServer) -> None:
    messages = [
        event("ada", "a", "WARNING", 5),
        event("bob", "a", "CRITICAL", 6),
        request("ada"),
        event("ada", "a", "CLEARED", 4),
        event("ada", "a", "WARNING", 5),
        request("ada"),
        event("ada", "a", "CRITICAL", 7),
        ("AlarmStatusChanged.x", b'{"UserID":"ada","AlarmID":"a"}'),
        ("SendAlarmDigest", b'{"UserID":"ada"'),
        ("SendAlarmDigest", b'{"UserID":"adam"'),
        ("ForgetUser", orjson.dumps({"UserID": "ada"})),
        request("ada"),
    ]
    with ServiceProcess(server.url, mode="stream", options=OPTIONS), Bus(server.url) as bus:
        bus.publish_all(messages)
        bus.wait_for_digests(1)
        bus.wait_for_rejected(3)
    # The service is down by now.
    steps = told(server, "ada")
    assert [(one["sequence"], one["kind"], one["outcome"]) for one in steps] == [
        (1, "event", "new"),
        (3, "request", "digest"),
        (4, "event", "late"),
        (5, "event", "repeated"),
        (6, "request", "nothing_due"),
        (7, "event", "merged"),
        (8, "event", "rejected"),
        (9, "request", "rejected"),
        (11, "forget", "forgotten"),
        (12, "request", "nothing_due"),
    ]
    assert steps[1]["digests"] == [1]
    assert steps[1]["alarms"] == [{"AlarmID": "a", "Status": "WARNING"}]
    assert steps[4]["told"] == [
        {"AlarmID": "a", "Status": "WARNING", "digest": 1, "missing_for": None}
    ]
    assert steps[6]["reason"] == "schema"
    shown = run_command("history", "ada", "a", "--server", server.url)
    assert "reading 12 messages of ALARMS, from 1 on (all that the stream" in shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) == 11
    assert lines[1].endswith("3  request: digest 1 with 1 alarm, with a WARNING")
    assert "late: WARNING of 2026-01-02T03:04:05.000000000Z counts" in lines[2]
    assert lines[4].endswith("no digest with a: not changed since it was told in digest 1")
    assert lines[-1] == (
        "at the end: 0 active, 0 due at the next request; 4 events and 3 requests read"
    )
    assert lines[6].endswith("8  event a: rejected (schema): Status is missing")
    other = run_command("history", "ada", "zz", "--server", server.url)
    assert other.returncode == exit_codes.INTERNAL_ERROR
    assert "event a: rejected" not in other.stdout
    assert "no message about alarm 'zz' of user 'ada' was read since" in other.stderr


@pytest.mark.slow
def test_it_is_what_the_service_has_done(server: NatsServer) -> None:
    """Random histories of odd users, with kills in between: against the model, and the stream."""
    with (
        StreamService(server.url) as service,
        Feeder(server.url, seed=91, rate=2000) as feeder,
    ):
        for _ in range(3):
            feeder.wait_for(700)
            service.kill()
            service.start()
        settle(server.url, service, feeder)
    messages = read_stream(server.url, ALARMS)
    expected = judge(messages, skew_ns=SKEW_NS, retention_ns=RETENTION_NS)
    options = ("--clock-skew", f"{SKEW_NS / 1e9}s", "--retention", f"{RETENTION_NS / 1e9}s")
    assert len(expected.answers) > 5
    for user, answers in expected.answers.items():
        if "\0" in user:
            continue  # no command line can hold it
        steps = told(server, user, "--since", "1h", *options)
        digests = [one for one in steps if one["outcome"] == "digest"]
        assert [one["sequence"] for one in digests] == [one.sequence for one in answers]
        for one, answer in zip(digests, answers, strict=True):
            alarms = [(alarm["AlarmID"], alarm["Status"]) for alarm in one["alarms"]]
            assert alarms == [(e.alarm, e.status.name) for e in answer.digest.entries]
        assert not [
            one for one in steps if one["outcome"] in ("missing", "unknown", "not_answered")
        ]


def wait_for_hers(bus: Bus, count: int) -> None:
    eventually(
        lambda: sum(one.json["UserID"] == "ada" for one in bus.digests) >= count, what="her digest"
    )


def test_other_settings_than_the_services_are_told(server: NatsServer) -> None:
    with ServiceProcess(server.url, mode="stream", options=["--clock-skew", "1s"]):
        done = run_command("history", "ada", "--server", server.url)
    assert "the service runs with --clock-skew 1s: give history the same" in done.stderr


def test_knowledge_that_begins_late(server: NatsServer) -> None:
    with asking(server.url) as js, Bus(server.url) as bus:
        with ServiceProcess(server.url, mode="stream", options=OPTIONS):
            bus.publish_all([event("ada", "a", "WARNING", 1), request("ada")])
            bus.wait_for_digests(1)
            first = js.message_time_ns(ALARMS, 2)
            assert first is not None
            bus.publish_all([event("ada", "a", "WARNING", 2), request("ada"), request("ada")])
            mark_as_stored(bus, 4)
            bus.publish_all([event("ada", "a", "CRITICAL", 3), request("ada")])
            wait_for_hers(bus, 2)
            bus.publish_all([event("ada", "a", "WARNING", 4), request("ada"), request("ada")])
            wait_for_hers(bus, 3)
        newest = len(bus.digests)
        since = timestamps.to_text(first + 1)
        done = run_command("history", "ada", "--since", since, "--server", server.url)
        assert "from 3 on (what came before is not known here)" in done.stderr
        lines = done.stdout.splitlines()
        assert "told before all that was read here and not changed since, else it" in lines[1]
        assert lines[1].endswith("is missing: a WARNING")
        assert "nothing is due as far as is known here; told and not changed since" in lines[2]
        assert lines[-2].endswith(f"told and not changed since: a WARNING in digest {newest}")
        assert "1 active, 0 due at the next request as far as is known here;" in lines[-1]
        assert "no service answers: whether one has read all of this is not known" in done.stderr
        # A digest has told the alarm: now it is known, and one that is not there is missing.
        js.request(f"STREAM.MSG.DELETE.{DIGESTS}", {"seq": newest})
        asked = told(server, "ada", "--since", since)[-2:]
        assert [one["outcome"] for one in asked] == ["not_answered", "nothing_due"]
        with ServiceProcess(server.url, mode="stream", options=OPTIONS):
            mark_as_stored(bus, info_of(js, ALARMS).last_seq)
            done = run_command("history", "ada", "--since", since, "--server", server.url)
            assert "the running service has read all of it" in done.stderr
        asked = told(server, "ada", "--since", since)[-2:]
        assert [one["outcome"] for one in asked] == ["missing", "nothing_due"]


def test_what_was_learned_from_a_digest_decides_what_is_late(server: NatsServer) -> None:
    """What came before is not read, but a digest tells of it: the service's state, not ours."""
    with asking(server.url) as js, Bus(server.url) as bus:
        with ServiceProcess(server.url, mode="stream", options=OPTIONS):
            bus.publish_all([event("ada", "a", "WARNING", 30)])
            bus.flush()
            eventually(lambda: js.message_time_ns(ALARMS, 1), what="it to be stored")
            first = js.message_time_ns(ALARMS, 1) or 0
            bus.publish_all([event("ada", "a", "CRITICAL", 10), request("ada")])
            bus.wait_for_digests(1)
            bus.publish_all([event("ada", "a", "CRITICAL", 20), request("ada")])
            bus.flush()
            eventually(lambda: js.message_time_ns(ALARMS, 5), what="all to be stored")
        steps = told(server, "ada", "--since", timestamps.to_text(first + 1))
        outcomes = [one["outcome"] for one in steps]
        assert outcomes == ["new", "digest", "late", "nothing_due"]
        assert [one["complete"] for one in steps] == [False] * 4


def test_a_digest_that_is_not_there(server: NatsServer) -> None:
    with Bus(server.url) as bus, asking(server.url) as js:
        with ServiceProcess(server.url, mode="stream", options=OPTIONS):
            pass  # it has made the streams
        bus.publish_all([event("ada", "a", "WARNING", 1), request("ada"), request("ada")])
        bus.flush()
        eventually(lambda: js.message_time_ns(ALARMS, 3), what="all to be stored")
        [_event, asked, again] = told(server, "ada")
        assert (asked["outcome"], asked["digests"]) == ("not_answered", [])
        assert asked["alarms"] == [{"AlarmID": "a", "Status": "WARNING"}]
        assert [one["missing_for"] for one in again["told"]] == [2]
        with ServiceProcess(server.url, mode="stream", options=OPTIONS):
            bus.wait_for_digests(1)
            mark_as_stored(bus, 3)
        assert [one["outcome"] for one in told(server, "ada")][1] == "digest"
        js.request(f"STREAM.MSG.DELETE.{DIGESTS}", {"seq": 1})
        lines = run_command("history", "ada", "--server", server.url).stdout.splitlines()
        assert lines[1].endswith("no digest in the stream, though 1 alarm due: a WARNING")
        assert lines[2].endswith("a WARNING in the digest of request 2, which is not there")


def test_one_alarm_of_several(server: NatsServer) -> None:
    """Each request tells of it, also where its digest holds others only, in several messages."""
    others = [event("ada", f"b{n:040}", "WARNING", 1) for n in range(300)]
    far = int(time.time()) + 7200
    with (
        ServiceProcess(server.url, mode="stream", options=[*OPTIONS, "--split-size", "16KiB"]),
        Bus(server.url) as bus,
    ):
        bus.publish_all([event("ada", "a", "WARNING", 5), *others, request("ada")])
        bus.publish_all([event("ada", "a", "CLEARED", 6), event("ada", "c", "WARNING", 1)])
        bus.publish_all([request("ada"), request("ada")])
        ahead = {"UserID": "ada", "AlarmID": "a", "Status": "CRITICAL"}
        ahead["ChangedAt"] = timestamps.to_text(far * 10**9)
        bus.publish_all([("AlarmStatusChanged", orjson.dumps(ahead))])
        bus.publish_all([event("ada", "a", "WARNING", 7), request("ada")])
        # How many messages the first one takes is the split's to say.
        eventually(lambda: any(b"CRITICAL" in one.body for one in bus.digests), what="the last")
    lines = run_command("history", "ada", "a", "--server", server.url).stdout.splitlines()
    assert "request: digest 1, 2, " in lines[1]
    assert lines[1].endswith("with 301 alarms, with a WARNING")
    assert lines[3].endswith("with 1 alarm, without a: it is CLEARED")
    assert lines[4].endswith("no digest with a: it is CLEARED")
    assert "(it said later: too far in the future): counts from now on" in lines[5]
    assert lines[7].endswith("with a CRITICAL")


def test_a_late_change_makes_it_due(server: NatsServer) -> None:
    with ServiceProcess(server.url, mode="stream", options=OPTIONS), Bus(server.url) as bus:
        bus.publish_all([event("ada", "a", "WARNING", 1), request("ada")])
        bus.publish_all([event("ada", "a", "WARNING", 5), event("ada", "a", "CLEARED", 3)])
        bus.publish_all([request("ada")])
        bus.wait_for_digests(2)
    steps = told(server, "ada")
    assert [one["outcome"] for one in steps] == ["new", "digest", "merged", "late", "digest"]
    assert steps[3]["due_by_it"] is True
    lines = run_command("history", "ada", "--server", server.url).stdout.splitlines()
    assert lines[3].endswith("counts, but it is a change since what was told: due again")


def test_forgotten_after_its_retention(server: NatsServer) -> None:
    options = [*OPTIONS, "--retention", "1s"]
    with (
        ServiceProcess(server.url, mode="stream", options=options),
        Bus(server.url) as bus,
        asking(server.url) as js,
    ):
        bus.publish_all([event("ada", "a", "CLEARED", 5)])
        bus.flush()
        eventually(lambda: js.message_time_ns(ALARMS, 1), what="it to be stored")
        first = js.message_time_ns(ALARMS, 1) or 0
        eventually(lambda: time.time_ns() > first + 1_100_000_000, what="its retention to be over")
        bus.publish_all([event("ada", "a", "WARNING", 3), request("ada")])
        bus.wait_for_digests(1)
    outcomes = [one["outcome"] for one in told(server, "ada", "--retention", "1s")]
    assert outcomes == ["new", "anew", "digest"]


def test_a_stream_with_gaps_and_one_that_was_made_anew(server: NatsServer) -> None:
    with Bus(server.url) as bus, asking(server.url) as js:
        with ServiceProcess(server.url, mode="stream", options=OPTIONS):
            bus.publish_all([event("ada", "a", "WARNING", 1), request("ada"), request("bob")])
            bus.wait_for_digests(1)
            eventually(lambda: js.message_time_ns(ALARMS, 3), what="all to be stored")
        # Its last message is deleted: nothing that would ever come is waited for.
        js.request(f"STREAM.MSG.DELETE.{ALARMS}", {"seq": 3})
        started = time.monotonic()
        assert [one["complete"] for one in told(server, "ada")] == [True, True]
        assert time.monotonic() - started < 15
        js.request(f"STREAM.MSG.DELETE.{ALARMS}", {"seq": 1})
        done = run_command("history", "ada", "--server", server.url)
        assert "what came before is not known here" in done.stderr
        # Made anew: its second message is another request, whose digest is not the first one's.
        config = info_of(js, ALARMS).config
        js.request(f"STREAM.DELETE.{ALARMS}", {})
        js.create_stream(config)
        bus.publish_all([event("ada", "b", "WARNING", 1), request("ada")])
        bus.flush()
        eventually(lambda: js.message_time_ns(ALARMS, 2), what="both to be stored")
        [_event, asked] = told(server, "ada")
        assert asked["outcome"] == "not_answered"


def test_nothing_to_tell(server: NatsServer) -> None:
    missing = run_command("history", "ada", "--server", server.url)
    assert missing.returncode == exit_codes.USAGE
    assert "there is no stream ALARMS" in missing.stderr
    with ServiceProcess(server.url, mode="stream", options=OPTIONS):
        empty = run_command("history", "ada", "--server", server.url)
        assert empty.returncode == exit_codes.INTERNAL_ERROR
        assert "no message about user 'ada' was read" in empty.stderr
    when = run_command("history", "ada", "--since", "yesterday", "--server", server.url)
    assert when.returncode == exit_codes.USAGE
    assert "'yesterday' is neither a duration like 15m" in when.stderr
    odd = run_command("history", "\udcff", "--server", server.url)
    assert odd.returncode == exit_codes.USAGE
    assert "USER is not text" in odd.stderr
    away = run_command("history", "ada", "--server", "nats://127.0.0.1:1")
    assert away.returncode == exit_codes.NATS_NOT_REACHABLE


def test_who_may_not_read_is_told() -> None:
    with ChangingServer(extra=users('publish: { allow: ["$JS.API.STREAM.INFO.*"] }')) as guarded:
        with asking(guarded.url_of("bus")) as js:
            js.create_stream({"name": ALARMS, "subjects": ["AlarmStatusChanged"]})
            js.create_stream({"name": DIGESTS, "subjects": ["AlarmDigest"]})
        done = run_command("history", "ada", NATS_URL=guarded.url_of("service"))
        assert done.returncode == exit_codes.NATS_NOT_REACHABLE
        assert "Permissions Violation" in done.stderr
        assert "CONSUMER.CREATE" in done.stderr


def test_what_docs_questions_says_that_it_needs() -> None:
    allowed = ["$JS.API.STREAM.INFO.*", f"$JS.API.STREAM.MSG.GET.{ALARMS}"]
    for stream in (ALARMS, DIGESTS):
        consumer = "$JS.API.CONSUMER"
        allowed += [f"{consumer}.CREATE.{stream}.>", f"{consumer}.MSG.NEXT.{stream}.*"]
        allowed += [f"{consumer}.DELETE.{stream}.*"]
    publish = ", ".join(f'"{one}"' for one in allowed)
    permissions = f'publish: {{ allow: [{publish}] }}, subscribe: {{ allow: ["_INBOX.>"] }}'
    with ChangingServer(extra=users(permissions)) as guarded:
        service = ServiceProcess(
            mode="stream", options=OPTIONS, environment={"NATS_URL": guarded.url_of("bus")}
        )
        with service, Bus(guarded.url_of("bus")) as bus:
            bus.publish_all([event("ada", "a", "WARNING", 1), request("ada")] * 100)
            bus.wait_for_digests(1)
            done = run_command("history", "ada", NATS_URL=guarded.url_of("service"))
            with asking(guarded.url_of("bus")) as js:
                began = js.message_time_ns(ALARMS, 100)
            assert began is not None
            # As most do: from a message on that is not the stream's first.
            since = ("--since", timestamps.to_text(began + 1))
            later = run_command("history", "ada", *since, NATS_URL=guarded.url_of("service"))
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 201
        assert later.returncode == 0, later.stderr
        assert len(later.stdout.splitlines()) < 201
        assert "Permissions Violation" not in guarded.log


@pytest.mark.slow
def test_it_is_fast_and_ends_at_once(server: NatsServer, tell: Callable[[str], None]) -> None:
    """A stream with much to read; no consumer of ours is left."""
    one = event("x", "a", "WARNING", 1)
    count = 200_000
    with Bus(server.url) as bus, asking(server.url) as js:
        js.create_stream({"name": ALARMS, "subjects": INPUTS})
        js.create_stream({"name": DIGESTS, "subjects": ["AlarmDigest"]})
        for _ in range(count // 20_000):
            bus.publish_all([one] * 20_000)
        bus.publish_all([event("ada", "a", "WARNING", 1)])
        bus.flush()
        eventually(
            lambda: (found := js.stream_info(ALARMS)) and found.last_seq > count,
            timeout=60,
            what="all of it",
        )
        started = time.monotonic()
        assert [one["sequence"] for one in told(server, "ada")] == [count + 1]
        seconds = time.monotonic() - started
        tell(f"history: {count} messages in {seconds:.2f} s, its start included")
        command = [sys.executable, "-m", "alarmdigest", "history", "x", "--server", server.url]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=CLEAN_ENVIRONMENT
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.close()
        assert process.wait(5) == exit_codes.INTERNAL_ERROR
        eventually(lambda: info_of(js, ALARMS).consumers == 0, what="no consumer to be left")
