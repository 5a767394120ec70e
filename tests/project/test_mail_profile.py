"""The profile `mail` of compose.yaml: from an alert of Prometheus to a mail, see docs/mail.md."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml
from project.test_deploy import PORT, compose, profile
from support.alertmanager import program
from support.paths import ROOT

from alarmdigest.connect.deliver.routes_file import read_routes
from alarmdigest.connect.schedule.bucket import EVERYBODY
from alarmdigest.connect.schedule.schedule import written
from alarmdigest.connect.schedule.toml_file import read_file

MAIL = ROOT / "deploy" / "mail"


def test_the_profile_has_every_part_between_prometheus_and_the_mail() -> None:
    assert profile("mail") == {
        *("prometheus", "alertmanager", "bridge", "scheduler", "schedules", "deliver", "mailpit"),
        "sample",
    }


def yaml_of(name: str) -> Any:
    return yaml.safe_load((MAIL / name).read_text("utf-8"))


def listens(service: str) -> int:
    """The port of a service, as its command has it."""
    one = compose()["services"][service]
    words = " ".join([*one.get("entrypoint", ()), *one.get("command", ())])
    known = {"alarmdigest": PORT, "mailpit": 1025, "alertmanager": 9093}
    found = re.search(r"--listen \S+:(\d+)|http\.server (\d+)", words)
    return int(found[1] or found[2]) if found else known[service]


def test_each_part_of_the_profile_is_pointed_at_the_next_one() -> None:
    prometheus, alertmanager = yaml_of("prometheus.yml"), yaml_of("alertmanager.yml")
    scraped = prometheus["scrape_configs"]
    [told] = prometheus["alerting"]["alertmanagers"]
    groups = [group for one in (*scraped, told) for group in one["static_configs"]]
    targets = {target for group in groups for target in group["targets"]}
    assert targets >= {f"{one}:{listens(one)}" for one in ("sample", "alertmanager", "bridge")}
    for target in targets:
        name, _, port = target.partition(":")
        assert listens(name) == int(port)
    [receiver] = alertmanager["receivers"]
    [webhook] = receiver["webhook_configs"]
    assert webhook == {
        "url": f"http://bridge:{listens('bridge')}/alertmanager",
        "send_resolved": True,
    }
    [way] = read_routes(MAIL / "deliver.toml").ways("ada")
    assert way.address.startswith(f"mailto://mailpit:{listens('mailpit')}/")
    assert "to=ada%40example.com" in way.address or "to=ada@example.com" in way.address


def test_the_schedule_of_the_profile_can_be_read() -> None:
    [entry] = read_file(MAIL / "schedules.toml")
    assert entry.user is EVERYBODY
    assert entry.schedule is not None
    assert written(entry.schedule) == {"within": "1m", "critical_within": "0s"}


def test_one_alert_of_the_profile_fires_and_the_others_wait_for_an_edit() -> None:
    lines = (MAIL / "sample" / "metrics.txt").read_text("utf-8").splitlines()
    numbers = {line.partition("{")[0]: float(line.split()[1]) for line in lines}
    [group] = yaml_of("rules.yml")["groups"]
    firing = set()
    for rule in group["rules"]:
        name, sign, limit = rule["expr"].split()
        above = numbers[name] > float(limit)
        if above == (sign == ">"):
            firing.add(rule["alert"])
    assert len(group["rules"]) == len(numbers) == 3
    assert firing == {"DiskFull"}


@pytest.mark.parametrize(
    "command",
    ["promtool check config prometheus.yml", "amtool check-config alertmanager.yml"],
)
def test_their_own_programs_take_the_configuration(command: str) -> None:
    """That of Prometheus with its rules."""
    name, *rest = command.split()
    done = subprocess.run([program(name), *rest], cwd=MAIL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
