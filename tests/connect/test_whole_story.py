"""``history`` tells of an alarm until a person has it, and ``forget`` forgets that, too."""

from __future__ import annotations

import json
import re

import pytest
from support.bridge import Streams
from support.command import run_command
from support.deliver import DeliverProcess, routes
from support.nats_server import NatsServer
from support.receivers import MailServer, WebServer
from support.scheduler import SchedulerProcess, event, schedule
from support.service import ServiceProcess
from support.wait import eventually

pytestmark = pytest.mark.deliver


def test_history_tells_when_it_was_scheduled_and_who_got_it() -> None:
    with NatsServer() as server, MailServer() as mails, WebServer() as web:
        streams = Streams(server)
        schedule(server.url, "set", "--default", "--within", "0s")
        targets = {"mail": mails.url("{UserID}@example.com"), "chat": web.url()}
        mails.refuse = lambda address: "550 no such user" if address.startswith("bob") else ""
        rules = routes(targets).replace("[sending]", "[sending]\nattempts = 2")
        with (
            ServiceProcess(server.url, mode="stream"),
            SchedulerProcess(server.url) as scheduler,
            DeliverProcess(server.url, routes=rules),
        ):
            eventually(lambda: scheduler.metric("alarmdigest_scheduler_hears_service"))
            for user in ("ada", "bob"):
                streams.publish("AlarmStatusChanged", event(user, "disk"))
            eventually(lambda: web.of("ada") and web.of("bob"), what="both in the chat", timeout=20)
            eventually(
                lambda: streams.info("ALARM_UNDELIVERED").messages == 1,
                what="the dead letter",
                timeout=20,
            )
            eventually(lambda: len(mails.mails) == 1, what="the mail", timeout=20)
        # All of them are down by now.
        [told] = [
            one
            for one in map(
                json.loads,
                run_command("history", "ada", "--json", NATS_URL=server.url).stdout.splitlines(),
            )
            if one["kind"] == "request"
        ]
        assert told["scheduled"] is not None
        assert {(one["target"], one["outcome"]) for one in told["deliveries"]} == {
            ("mail", "sent"),
            ("chat", "sent"),
        }
        text = run_command("history", "bob", "disk", NATS_URL=server.url).stdout
        assert re.search(r"request, scheduled for \S+Z: digest \d with 1 alarm", text)
        assert re.search(r"; sent by chat at \S+Z", text)
        assert re.search(r"; not delivered by mail, kept as a dead letter at \S+Z", text)
        # Whoever asked himself has no schedule, and what is nowhere is left out.
        streams.publish("SendAlarmDigest", b'{"UserID":"ada"}')
        for stream in ("KV_ALARM_DELIVERED", "KV_ALARM_SCHEDULES"):
            streams.js.request(f"STREAM.DELETE.{stream}")
        lines = run_command("history", "ada", "--json", NATS_URL=server.url).stdout.splitlines()
        requests = [one for one in map(json.loads, lines) if one["kind"] == "request"]
        assert [one["scheduled"] is None for one in requests] == [False, True]
        assert [one["deliveries"] for one in requests] == [[], []]
        # What is kept of when ada was told.
        forgotten = run_command("forget", "ada", "--json", NATS_URL=server.url)
        assert json.loads(forgotten.stdout)["entries_removed"] == 1
        streams.close()
