"""`rejected` shows what was refused, and sends it in once more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from support.bus import Bus
from support.command import run_command
from support.nats_server import HOST, NatsServer
from support.raw import publish_raw
from support.service import CLEAN_ENVIRONMENT, ServiceProcess
from support.streams import add, last_of
from support.wait import eventually

from alarmdigest.cli.rejected_message import read_rejection

GOOD = {"AlarmID": "a", "UserID": "ada", "Status": "WARNING", "ChangedAt": "2026-01-02T03:04:05Z"}
BAD = [
    ("AlarmStatusChanged", b"no JSON"),
    ("AlarmStatusChanged.some.where", b'{"AlarmID": "a"}'),
    ("SendAlarmDigest", orjson.dumps({"UserID": "u" * 2000})),
    ("AlarmStatusChanged", orjson.dumps(GOOD | {"Status": "\x1b[31mred"})),
    ("AlarmStatusChanged", orjson.dumps(GOOD | {"ChangedAt": "yesterday"})),
]
REASONS = ["json", "schema", "too_long", "status", "changed_at"]


@pytest.fixture(scope="module")
def server() -> Iterator[NatsServer]:
    """One whose stream of refusals holds BAD, and a service beside it."""
    with NatsServer() as server, ServiceProcess(server.url, mode="stream"):
        with Bus(server.url) as bus:
            bus.publish_all(BAD)
            bus.wait_for_rejected(len(BAD))
        yield server


def shown(server: NatsServer, *options: str) -> list[dict[str, Any]]:
    result = run_command("rejected", "--server", server.url, "--json", *options)
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


@contextmanager
def following(
    url: str, *options: str, **login: str
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`rejected` as it goes on, and the lines that it has written so far."""
    process = subprocess.Popen(
        [sys.executable, "-m", "alarmdigest", "rejected", "--server", url, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=CLEAN_ENVIRONMENT | {f"ALARMDIGEST_{name.upper()}": of for name, of in login.items()},
    )
    lines: list[str] = []
    assert process.stdout is not None
    thread = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
    thread.start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait(10)
        thread.join(10)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def test_it_shows_each_refusal_with_its_reason_and_not_its_body(server: NatsServer) -> None:
    found = shown(server)[: len(BAD)]
    assert [one["reason"] for one in found] == REASONS
    assert [one["subject"] for one in found] == [subject for subject, _body in BAD]
    assert [one["bytes"] for one in found] == [len(body) for _subject, body in BAD]
    assert [one["sequence"] for one in found] == [1, 2, 3, 4, 5]
    assert not any("body" in one or one["cut"] for one in found)
    assert all(one["detail"] and one["at"].startswith("20") for one in found)


def test_with_body_it_shows_what_was_sent_but_never_to_the_terminal(server: NatsServer) -> None:
    found = shown(server, "--body")[: len(BAD)]
    assert [one["body"].encode() for one in found] == [body for _subject, body in BAD]
    assert [one["bytes"] for one in found] == [len(body) for _subject, body in BAD]
    text = run_command("rejected", "--server", server.url, "--body").stdout
    assert "red" in text
    assert "\x1b" not in text


def test_of_an_empty_stream_it_says_so() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, "ALARM_REJECTED", ["AlarmRejected"])
        result = run_command("rejected", "--server", server.url)
        assert (result.returncode, result.stdout) == (0, "")
        assert "ALARM_REJECTED holds no rejected messages" in result.stderr


def test_last_shows_only_the_newest(server: NatsServer) -> None:
    everything = shown(server)
    assert shown(server, "--last", "2") == everything[-2:]
    assert shown(server, "--last", "1") == everything[-1:]


def test_a_line_for_a_person_says_it_all(server: NatsServer) -> None:
    result = run_command("rejected", "--server", server.url)
    first = result.stdout.splitlines()[1].split()
    assert first[0] == "2"
    assert first[2:6] == ["schema", "16", "B", "AlarmStatusChanged.some.where"]


def test_following_shows_what_comes_until_ctrl_c(server: NatsServer) -> None:
    before = len(shown(server))
    with following(server.url, "--follow", "--last", "1", "--json") as (process, lines):
        eventually(lambda: len(lines) == 1, what="the last one")
        with Bus(server.url) as bus:
            bus.publish_all([("SendAlarmDigest", b"one"), ("SendAlarmDigest", b"two")])
            bus.wait_for_rejected(2)
        eventually(lambda: len(lines) == 3, what="the two that came")
        assert [json.loads(line)["sequence"] for line in lines] == [before, before + 1, before + 2]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_without_a_stream_it_listens() -> None:
    with NatsServer(jetstream=False) as server, ServiceProcess(server.url):
        with following(server.url, "--json", "--body") as (process, lines):
            assert process.stderr is not None
            assert "showing what comes from now on" in process.stderr.readline()
            with Bus(server.url) as bus:
                bus.publish_all(BAD)
            eventually(lambda: len(lines) == len(BAD), what="all refusals")
            found = [json.loads(line) for line in lines]
            assert [one["reason"] for one in found] == REASONS
            assert {one["sequence"] for one in found} == {None}
            assert found[0]["body"] == "no JSON"
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
        asked = run_command("rejected", "--server", server.url, "--mode", "stream")
        assert asked.returncode == 1
        assert f"no stream ALARM_REJECTED on {server.url}: it has no JetStream" in asked.stderr


@pytest.mark.parametrize("more", [(), ("--follow",), ("--mode", "stream"), ("--refeed", "1")])
def test_a_stream_that_is_not_there_is_said_and_nobody_listens(
    server: NatsServer, more: tuple[str, ...]
) -> None:
    options = ("--server", server.url, "--rejected-stream", "NOPE", *more)
    result = run_command("rejected", *options)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith(
        f": no stream NOPE on {server.url}: check --rejected-stream; "
        "the service makes it at its first start in stream mode\n"
    )
    assert result.stderr.count("\n") == 1


def test_a_domain_that_nobody_answers_for_is_said(server: NatsServer) -> None:
    result = run_command("rejected", "--server", server.url, "--js-domain", "hub")
    assert (result.returncode, result.stdout) == (1, "")
    assert f"no stream ALARM_REJECTED on {server.url}: nobody answers" in result.stderr
    assert "JetStream domain hub, check --js-domain" in result.stderr


def test_an_account_without_jetstream_is_listened_to() -> None:
    accounts = """
accounts { A: { jetstream: enabled, users: [{user: a, password: p}] }
           B: { users: [{user: b, password: p}] } }
"""
    with (
        NatsServer(extra=accounts) as server,
        following(server.url, user="b", password="p") as (process, _lines),
    ):
        assert process.stderr is not None
        assert "showing what comes from now on" in process.stderr.readline()


@pytest.mark.parametrize(
    "may",
    [
        'subscribe: { allow: ["AlarmRejected"] }',
        'publish: { deny: ["$JS.>"] }',
        'publish: { deny: ["$JS.API.CONSUMER.>"] }',
    ],
    ids=["no answers", "no requests", "no consumers"],
)
def test_who_may_not_ask_jetstream_is_told_of_core_mode_and_may_use_it(may: str) -> None:
    user = f"{{ user: reader, password: p, permissions: {{ {may} }} }}"
    users = f"authorization {{ users: [{user}, {{ user: owner, password: p }}] }}"
    login = {"user": "reader", "password": "p"}
    with NatsServer(extra=users) as server:
        with Bus(f"nats://owner:p@{HOST}:{server.port}") as bus:
            add(bus, "ALARM_REJECTED", ["AlarmRejected"])
        variables = {f"ALARMDIGEST_{name.upper()}": text for name, text in login.items()}
        result = run_command("rejected", "--server", server.url, **variables)
        assert (result.returncode, result.stdout) == (3, "")
        assert "Permissions Violation for " in result.stderr
        assert result.stderr.endswith("; --mode core needs no JetStream\n")
        assert result.stderr.count("\n") == 1
        with following(server.url, "--mode", "core", **login) as (process, _lines):
            assert process.stderr is not None
            assert "showing what comes from now on" in process.stderr.readline()


def test_core_mode_listens_also_where_there_is_a_stream(server: NatsServer) -> None:
    with following(server.url, "--mode", "core") as (process, _lines):
        assert process.stderr is not None
        assert "showing what comes from now on" in process.stderr.readline()


def test_refeeding_sends_the_body_to_where_it_came_in_and_has_it_confirmed() -> None:
    with (
        NatsServer() as server,
        Bus(server.url) as bus,
        ServiceProcess(server.url, mode="stream"),
    ):
        bus.publish_all(BAD)
        bus.wait_for_rejected(len(BAD))
        result = run_command("rejected", "--server", server.url, "--refeed", "2,1")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            "2: sent to AlarmStatusChanged.some.where, stored in ALARMS as 6",
            "1: sent to AlarmStatusChanged, stored in ALARMS as 7",
        ]
        again = bus.wait_for_rejected(len(BAD) + 2)[-2:]
        assert [one.body for one in again] == [BAD[1][1], BAD[0][1]]
        assert again[0].headers["Alarmdigest-Subject"] == "AlarmStatusChanged.some.where"


def test_what_cannot_be_refed_is_named_and_the_others_are_sent() -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        with ServiceProcess(server.url, mode="stream"):
            bus.publish_all(BAD[:1])
            bus.wait_for_rejected(1)
        forged = {"Alarmdigest-Subject": "someone.else"}
        cut = {"Alarmdigest-Subject": "SendAlarmDigest", "Alarmdigest-Cut": "true"}
        bus.publish("AlarmRejected", b"forged", forged)
        bus.publish("AlarmRejected", b"cut", cut)
        bus.flush()
        result = run_command("rejected", "--server", server.url, "--refeed", "2,3,99,1")
        assert result.returncode == 1
        assert result.stdout == "1: sent to AlarmStatusChanged, stored in ALARMS as 2\n"
        problems = result.stderr.splitlines()
        assert "'someone.else' is none of the service's input subjects" in problems[0]
        assert "cut" in problems[1]
        assert problems[2] == "99: not sent: ALARM_REJECTED holds no such message"
        result = run_command("rejected", "--server", server.url, "--refeed", "99,1", "--json")
        assert (result.returncode, result.stderr) == (1, "")
        stored = {"subject": "AlarmStatusChanged", "stream": "ALARMS", "stored_as": 3}
        assert [json.loads(line) for line in result.stdout.splitlines()] == [
            {"sequence": 99, "not_sent": "ALARM_REJECTED holds no such message"},
            {"sequence": 1, **stored},
        ]


@pytest.mark.parametrize(
    "subject",
    [
        *(b"AlarmStatusChanged\x1b[31m", b"AlarmStatusChanged.\x07", b"AlarmStatusChanged\x1f"),
        *(
            b"AlarmStatusChanged.a\nPUB b 0\n\n",
            b"AlarmStatusChanged.a\tb",
            b"AlarmStatusChanged a",
        ),
        *(b"AlarmStatusChanged.>", b"AlarmStatusChanged.*", b"AlarmStatusChanged.", b""),
        *(b"AlarmStatusChanged.\xff", "AlarmStatusChanged.\u202e".encode()),
    ],
)
def test_what_claims_to_come_from_no_subject_is_not_sent(subject: bytes) -> None:
    with NatsServer() as server, Bus(server.url) as bus:
        add(bus, "ALARM_REJECTED", ["AlarmRejected"])
        add(bus, "EVERYTHING", ["AlarmStatusChanged", "AlarmStatusChanged.>"])
        headers = b"NATS/1.0\r\nAlarmdigest-Subject: " + subject + b"\r\n\r\n"
        size = len(headers), len(headers) + 4
        publish_raw(server.url, b"HPUB AlarmRejected %d %d\r\n%bbody\r\n" % (*size, headers))
        eventually(lambda: last_of(bus, "ALARM_REJECTED") == 1, what="the refusal in its stream")
        result = run_command("rejected", "--server", server.url, "--refeed", "1")
        assert (result.returncode, result.stdout) == (1, "")
        assert "is no subject to publish to" in result.stderr
        assert result.stderr.isascii()
        assert result.stderr.rstrip("\n").isprintable()
        assert last_of(bus, "EVERYTHING") == 0


@pytest.mark.parametrize("numbers", ["", "1,", "one", "0", "-1"])
def test_numbers_that_are_none_end_with_2(numbers: str) -> None:
    result = run_command("rejected", f"--refeed={numbers}")
    assert result.returncode == 2
    assert "--refeed" in result.stderr


def test_a_pipe_that_has_seen_enough_is_no_error(server: NatsServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "alarmdigest", "rejected", "--server", server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=CLEAN_ENVIRONMENT,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(10) == 0


@pytest.mark.parametrize("size", ["²", "9" * 5000, "-1", ""])
def test_a_size_that_is_none_is_passed_over(size: str) -> None:
    headers = f"NATS/1.0\r\nNats-Msg-Size: {size}\r\n\r\n".encode()
    assert read_rejection(headers, b"body", sequence=1, at_ns=0, with_body=False).size == 4
