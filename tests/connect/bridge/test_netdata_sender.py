"""deploy/netdata/alarmdigest.sh, called as Netdata's alarm-notify.sh calls it, by a real bash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.bridge import BridgeProcess, Streams
from support.nats_server import HOST, NatsServer, free_port
from support.paths import ROOT
from support.wait import eventually

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in ("bash", "curl", "flock")),
        reason="the sender needs bash, curl and flock",
    ),
]

SCRIPT = ROOT / "deploy/netdata/alarmdigest.sh"
# What alarm-notify.sh has in its variables, and does with its configuration: none is exported.
NOTIFY = """
ALARMDIGEST_URL="$URL"; ALARMDIGEST_SPOOL="$SPOOL"; ALARMDIGEST_HEADER_FILE="$HEADER_FILE"
ALARMDIGEST_SPOOL_MAX="$SPOOL_MAX"; ALARMDIGEST_PAUSE=1; ALARMDIGEST_PAUSE_MAX=1
host="$HOST"; name="$NAME"; chart="disk_space._"; family="/"; status="$STATUS"
when="$WHEN"; event_id="$EVENT"; value_string="91%"; goto_url="https://registry/goto"
info="$INFO"; roles="sysadmin"
source "$SCRIPT"
custom_sender "ops ada"
"""


class Netdata:
    def __init__(self, folder: Path, port: int) -> None:
        self.spool = folder / "spool"
        self.port = port
        self.environment = {
            "PATH": os.environ["PATH"],
            "SCRIPT": str(SCRIPT),
            "URL": f"http://{HOST}:{port}/netdata",
            "SPOOL": str(self.spool),
            "SPOOL_MAX": "10000",
            "HEADER_FILE": "",
        }
        self.events = 0

    def notify(self, status: str, *, name: str = "disk_full", info: str = "", **more: str) -> None:
        """Returns at once, as it must: Netdata waits for it."""
        self.events += 1
        environment = self.environment | {
            "HOST": "web1",
            "NAME": name,
            "STATUS": status,
            "INFO": info,
            "WHEN": "1795860600",
            "EVENT": str(self.events),
            **more,
        }
        done = subprocess.run(
            ["bash", "-c", NOTIFY], env=environment, timeout=5, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def __enter__(self) -> Netdata:
        return self

    def __exit__(self, *_: object) -> None:
        """The process in the background ends with its folder."""
        shutil.rmtree(self.spool)

    @property
    def waiting(self) -> int:
        return len(list(self.spool.glob("*.json")))


def test_an_event_is_sent_at_once(server: NatsServer, streams: Streams, tmp_path: Path) -> None:
    with (
        BridgeProcess(server.url) as bridge,
        Netdata(tmp_path, bridge.address[1]) as netdata,
    ):
        netdata.notify("CRITICAL", info='a "quoted"\n\ttext with \\ and é')
        eventually(lambda: streams.info("ALARMS").messages == 2, what="two events")
        eventually(lambda: netdata.waiting == 0, what="an empty spool")
    name = 'disk_full{chart="disk_space._",family="/",host="web1"}'
    at = "2026-11-28T10:10:00.000000001Z"
    assert streams.events() == [("ops", name, "CRITICAL", at), ("ada", name, "CRITICAL", at)]
    details = streams.bodies("KV_ALARM_DETAILS")[0]
    assert details["description"] == 'a "quoted"  text with \\ and é'
    assert details["summary"] == "disk full = 91%"


def test_what_did_not_arrive_is_sent_later_in_its_order(
    server: NatsServer, streams: Streams, tmp_path: Path
) -> None:
    with Netdata(tmp_path, free_port()) as netdata:
        for status in ("WARNING", "CRITICAL", "WARNING", "CLEAR"):
            netdata.notify(status)
        assert netdata.waiting == 4
        with BridgeProcess(server.url, listen=f"{HOST}:{netdata.port}"):
            eventually(lambda: netdata.waiting == 0, what="an empty spool")
    ours = [one for one in streams.events() if one[0] == "ada"]
    assert [one[2] for one in ours] == ["WARNING", "CRITICAL", "WARNING", "CLEARED"]
    assert sorted(ours, key=lambda one: one[3]) == ours


def test_what_is_sent_twice_because_the_answer_was_lost_changes_nothing(
    server: NatsServer, streams: Streams, tmp_path: Path
) -> None:
    port = free_port()
    with Netdata(tmp_path, port) as netdata:
        for status in ("WARNING", "CLEAR", "CRITICAL", "CLEAR"):
            netdata.notify(status)
        copies = {one.name: one.read_bytes() for one in netdata.spool.glob("*.json")}
        with BridgeProcess(server.url, listen=f"{HOST}:{port}"):
            eventually(lambda: netdata.waiting == 0, what="an empty spool")
            for name, body in copies.items():
                (netdata.spool / name).write_bytes(body)
            netdata.notify("UNDEFINED", name="other")
            eventually(lambda: netdata.waiting == 0, what="an empty spool")
    latest = max((one[3], one[2]) for one in streams.events())
    assert latest[1] == "CLEARED"
    assert streams.info("ALARMS").messages == 8, "two users"


def test_the_bridge_is_killed_and_nats_goes_away_in_between(
    server: NatsServer, streams: Streams, tmp_path: Path
) -> None:
    port = free_port()
    with (
        BridgeProcess(server.url, listen=f"{HOST}:{port}") as bridge,
        Netdata(tmp_path, port) as netdata,
    ):
        for number in range(12):
            if number == 3:
                bridge.kill()
            elif number == 6:
                bridge.start()
            elif number == 8:
                server.kill()
            elif number == 10:
                server.start()
            netdata.notify("WARNING", name=f"alarm{number}")
        eventually(lambda: netdata.waiting == 0, timeout=30, what="an empty spool")
    streams.close()
    after = Streams(server, create=False)
    names = [one[1].partition("{")[0] for one in after.events() if one[0] == "ada"]
    after.close()
    assert names == [f"alarm{number}" for number in range(12)]


def test_the_spool_is_bounded_and_what_is_lost_is_said(tmp_path: Path) -> None:
    with Netdata(tmp_path, free_port()) as netdata:
        netdata.environment["SPOOL_MAX"] = "3"
        for number in range(5):
            netdata.notify("WARNING", name=f"alarm{number}")
        files = sorted(netdata.spool.glob("*.json"))
        kept = [json.loads(file.read_text())["name"] for file in files]
    assert kept == ["alarm2", "alarm3", "alarm4"]


def test_the_header_of_a_token_comes_from_a_file(
    server: NatsServer, streams: Streams, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("right")
    (tmp_path / "header").write_text("Authorization: Bearer wrong")
    rules = f'[http]\nbearer_file = "{tmp_path}/tokens"'
    with (
        BridgeProcess(server.url, rules=rules) as bridge,
        Netdata(tmp_path, bridge.address[1]) as netdata,
    ):
        netdata.environment["HEADER_FILE"] = str(tmp_path / "header")
        netdata.notify("WARNING")
        bridge.wait_for_log("answered 401")
        assert netdata.waiting == 1, "a wrong token may be put right"
        (tmp_path / "header").write_text("Authorization: Bearer right")
        eventually(lambda: streams.info("ALARMS").messages == 2, what="two events")


def test_what_the_bridge_can_never_read_does_not_hold_up_the_rest(
    server: NatsServer, streams: Streams, tmp_path: Path
) -> None:
    with (
        Netdata(tmp_path, free_port()) as netdata,
        BridgeProcess(server.url, listen=f"{HOST}:{netdata.port}"),
    ):
        netdata.spool.mkdir()
        (netdata.spool / "1-damaged.json").write_text("{")
        netdata.notify("WARNING", name="first")
        eventually(lambda: netdata.waiting == 0, what="an empty spool")
        netdata.notify("WARNING", name="second")
        eventually(lambda: streams.info("ALARMS").messages == 4, what="events")
        refused = {file.name for file in (netdata.spool / "unreadable").iterdir()}
        assert refused == {"1-damaged.json"}
        names = {one[1].partition("{")[0] for one in streams.events()}
        assert names == {"first", "second"}
